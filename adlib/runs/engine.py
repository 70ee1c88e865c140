"""The engine by which papermill executes notebooks, saving them less often.

papermill writes the notebook before and after every cell. A run has some forty cells, and a megabyte of pictures in the
last of them: that was half a second of processor time a run. Here the notebook is saved when it begins, when it ends,
in whatever way, and in between where the last time is SAVE_EVERY seconds ago.
"""

from papermill.engines import NBClientEngine, papermill_engines

SAVE_EVERY = 5.0
NAME = "adlib"


class Engine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **settings) -> None:
        save = nb_man.save

        def save_if_long_ago(**given) -> None:
            if (nb_man.now() - nb_man.last_save_time).total_seconds() >= SAVE_EVERY:
                save(**given)

        nb_man.save = save_if_long_ago
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **settings)
        finally:
            nb_man.save = save


papermill_engines.register(NAME, Engine)
