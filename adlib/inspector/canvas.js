// The panels of the inspector: pictures side by side with linked zoom and pan, and the values under the pointer.
// Python draws the pictures (render.py), this file places them; canvas.py explains what comes and goes.

const element = (tag, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
};
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const short = (value) => String(Number(value.toPrecision(5)));

function render({ model, el }) {
  const view = { zoom: 1, x: 0.5, y: 0.5 }; // and the point in the middle, as shares of the image's sides
  let panels = []; // {canvas, bitmap} in the order of the trait
  let pointer = null; // the point under the pointer, as shares of the image's sides
  let [wanted, sent] = [0, 0]; // steps not asked for yet, and when Python was asked for some that it has not answered
  let drawing = 0; // number of the latest set of pictures
  let bar = ""; // address of the picture of the palette

  const grid = element("div", { className: "adlib-panels" });
  const readout = element("output", { className: "adlib-readout" });
  const tool = (text, label, action) => element("button", { type: "button", textContent: text, title: label, ariaLabel: label, onclick: action });
  const tools = element("div", { className: "adlib-tools" },
    tool("−", "Zoom out", () => zoomBy(1 / 1.5)), tool("+", "Zoom in", () => zoomBy(1.5)),
    tool("whole image", "Show the whole image", () => move(1, 0.5, 0.5)), readout);
  const keys = "← → previous and next sample. On a picture: wheel or + − zoom, drag or Shift with arrow keys move, 0 shows all of it.";
  tools.append(element("span", { className: "adlib-hint", textContent: keys, title: keys }));
  el.classList.add("adlib-canvas");
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab keeps its single-key shortcuts to itself here
  el.append(tools, grid);

  // Where the image lies on a canvas, in CSS pixels.
  function place(canvas) {
    const [height, width] = model.get("values").size ?? [1, 1];
    const scale = Math.min(canvas.clientWidth / width, canvas.clientHeight / height) * view.zoom;
    const [w, h] = [width * scale, height * scale];
    return { left: canvas.clientWidth / 2 - view.x * w, top: canvas.clientHeight / 2 - view.y * h, w, h };
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    for (const { canvas, bitmap } of panels) {
      const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
      if (!bitmap) continue;
      const { left, top, w, h } = place(canvas);
      context.imageSmoothingEnabled = w < 2 * bitmap.width; // from twofold on pixels are shown as squares
      context.drawImage(bitmap, left, top, w, h);
      if (!pointer) continue;
      const [x, y] = [left + pointer.x * w, top + pointer.y * h];
      for (const [colour, line] of [["#000", 3], ["#fff", 1]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.beginPath();
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(x + 4 * dx, y + 4 * dy);
          context.lineTo(x + 11 * dx, y + 11 * dy);
        }
        context.stroke();
      }
    }
  }

  // The number at a point of an array of [h, w] or [h, w, c], from the bytes that Python sent.
  function at(data, shape, x, y, bytes, read, channel = 0) {
    const [row, column] = [Math.floor(clamp(y, 0, 0.999999) * shape[0]), Math.floor(clamp(x, 0, 0.999999) * shape[1])];
    return data[read](((row * shape[1] + column) * (shape[2] ?? 1) + channel) * bytes, true);
  }

  function describe() {
    const values = model.get("values");
    const [height, width] = values.size ?? [0, 0];
    if (!pointer || !values.grey) {
      readout.textContent = values.size ? `${width} × ${height} pixels` : "";
      return;
    }
    const wide = values.bits === 16;
    const grey = Array.from({ length: values.shape[2] }, (_, channel) =>
      at(values.grey, values.shape, pointer.x, pointer.y, wide ? 2 : 1, wide ? "getUint16" : "getUint8", channel));
    const parts = [`x ${Math.floor(pointer.x * width)}, y ${Math.floor(pointer.y * height)}`, `${grey.length > 1 ? "RGB" : "grey"} ${grey.join(" ")}`];
    for (const { name, data, shape, frame } of values.maps) {
      if (!data) continue;
      const [x, y] = [(pointer.x - frame[0]) / (frame[2] - frame[0]), (pointer.y - frame[1]) / (frame[3] - frame[1])];
      const inside = x >= 0 && x < 1 && y >= 0 && y < 1;
      parts.push(`${name} ${inside ? short(at(data, shape, x, y, 4, "getFloat32")) : "outside its crop"}`);
    }
    readout.textContent = parts.join(" · ");
  }

  function move(zoom, x, y) {
    view.zoom = clamp(zoom, 1, 64);
    const margin = 0.5 / view.zoom; // the image's border never leaves the middle of the canvas
    Object.assign(view, { x: clamp(x, margin, 1 - margin), y: clamp(y, margin, 1 - margin) });
    paint();
  }
  // Zoom so that the point (x, y) of the image stays where it is.
  function zoomBy(factor, x = view.x, y = view.y) {
    const zoom = clamp(view.zoom * factor, 1, 64);
    const change = view.zoom / zoom;
    move(zoom, x + (view.x - x) * change, y + (view.y - y) * change);
  }
  function shares(canvas, event) {
    const { left, top, w, h } = place(canvas);
    return { x: (event.offsetX - left) / w, y: (event.offsetY - top) / h };
  }

  function makePanel() {
    const canvas = element("canvas", { tabIndex: 0, role: "img" });
    const figure = element("figure", {}, element("figcaption"), canvas, element("div", { className: "adlib-colour-scale" }));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return; // otherwise the page scrolls
      event.preventDefault();
      const point = shares(canvas, event);
      zoomBy(Math.exp(-event.deltaY / 400), point.x, point.y);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => { canvas.focus({ preventScroll: true }); canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      const { w, h } = place(canvas);
      if (event.buttons & 1) move(view.zoom, view.x - event.movementX / w, view.y - event.movementY / h);
      const point = shares(canvas, event);
      pointer = point.x >= 0 && point.x < 1 && point.y >= 0 && point.y < 1 ? point : null;
      describe();
      paint();
    });
    canvas.addEventListener("pointerleave", () => { pointer = null; describe(); paint(); });
    canvas.addEventListener("dblclick", () => move(1, 0.5, 0.5));
    grid.append(figure);
    return { figure, canvas, bitmap: null };
  }

  function showPalette() {
    URL.revokeObjectURL(bar);
    bar = URL.createObjectURL(new Blob([model.get("colour_bar")], { type: "image/png" }));
  }
  async function show() {
    const mine = ++drawing;
    const given = model.get("panels");
    const bitmaps = await Promise.all(given.map((panel) => createImageBitmap(new Blob([panel.png], { type: "image/png" }))));
    if (mine !== drawing) return; // newer pictures are on their way
    while (panels.length > given.length) panels.pop().figure.remove();
    while (panels.length < given.length) panels.push(makePanel());
    given.forEach((panel, index) => {
      const { figure, canvas } = panels[index];
      panels[index].bitmap = bitmaps[index];
      canvas.ariaLabel = panel.alt;
      figure.firstChild.replaceChildren(element("b", { textContent: panel.title }), element("span", { textContent: panel.caption }));
      figure.firstChild.title = `${panel.title} ${panel.caption}`; // where a line is cut
      const line = element("i");
      line.style.backgroundImage = `url(${bar})`;
      figure.lastChild.replaceChildren(...(panel.low ? [panel.low, line, panel.high] : ["\u00a0"]));
    });
    grid.dataset.message = given.length ? "" : model.get("message");
    grid.dataset.long = given.some((panel) => panel.title.length > 20); // a name with settings takes two lines
    describe();
    fit();
    sent = 0;
    step(0);
  }

  // Steps that are asked for while Python draws are added up: a key that is held down leaves no queue behind.
  function step(by) {
    wanted += by;
    if (!wanted || Date.now() - sent < 1000) return;
    model.send({ step: wanted });
    [wanted, sent] = [0, Date.now()];
  }

  // Arrow keys work wherever the focus is in this inspector, except in fields and on sliders that need them.
  function onKey(event) {
    const root = el.closest(".adlib-inspector") ?? el;
    if (!root.contains(event.target) || event.target.closest("input, textarea, select, [role=slider], [contenteditable=true]")) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const onPicture = event.target.tagName === "CANVAS";
    const shift = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.shiftKey && shift && onPicture) move(view.zoom, view.x + (0.1 * shift[0]) / view.zoom, view.y + (0.1 * shift[1]) / view.zoom);
    else if (shift?.[0] && !event.shiftKey) step(shift[0]);
    else if (onPicture && event.key === "+") zoomBy(1.5);
    else if (onPicture && event.key === "-") zoomBy(1 / 1.5);
    else if (onPicture && event.key === "0") move(1, 0.5, 0.5);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  document.addEventListener("keydown", onKey, true);
  // Sliders say their name to screen readers, which ipywidgets leaves out.
  function nameSliders() {
    for (const slider of el.closest(".adlib-inspector")?.querySelectorAll(".widget-slider") ?? [])
      for (const handle of slider.querySelectorAll("[role=slider]")) handle.ariaLabel = slider.querySelector("label")?.textContent ?? "";
  }
  // The counts are buttons: they narrow the list to what they count.
  function onClick(event) {
    const count = event.target.closest?.("[data-count] button")?.parentElement.dataset.count;
    if (count && el.closest(".adlib-inspector")?.contains(event.target)) model.send({ outcome: count.toUpperCase() });
  }
  document.addEventListener("click", onClick);

  // The inspector is as high as the window lets it be: of the notebook, or of the page, less what stands above it there.
  function fit() {
    const root = el.closest(".adlib-runs") ?? el.closest(".adlib-inspector");
    if (!root) return;
    let scroller = document.scrollingElement;
    for (let node = root.parentElement; node && node !== document.body; node = node.parentElement)
      if (/auto|scroll/.test(getComputedStyle(node).overflowY) && node.clientHeight) scroller = node;
    const page = scroller === document.scrollingElement;
    const room = page ? window.innerHeight : scroller.clientHeight;
    root.classList.toggle("adlib-stacked", root.clientWidth < 820); // no room for two columns
    const above = root.getBoundingClientRect().top - (page ? -window.scrollY : scroller.getBoundingClientRect().top - scroller.scrollTop);
    root.style.setProperty("--adlib-height", `${Math.round(room - (above < 0.2 * room ? above : 0) - 14)}px`);
    arrange();
  }

  // Panels as large as the box lets them be; where they would be stamps, the box scrolls.
  function arrange() {
    const count = panels.length;
    if (!count) return;
    const stacked = el.closest(".adlib-stacked") !== null;
    const [tall, broad] = model.get("values").size ?? [1, 1];
    const ratio = clamp(broad / tall, 0.7, 1.8);
    const { figure, canvas } = panels[0];
    const [gap, least, text] = [8, 130, figure.offsetHeight - canvas.offsetHeight + 6];
    const [width, height] = [grid.clientWidth, stacked ? 0.7 * window.innerHeight : grid.clientHeight];
    const side = (columns) => {
      const across = (width - (columns - 1) * gap) / columns;
      const lines = Math.ceil(count / columns);
      return Math.floor(Math.min(across, (height / lines - text) * ratio));
    };
    const columns = Array.from({ length: count }, (_, at) => at + 1).reduce((best, next) => (side(next) > side(best) ? next : best), 1);
    const wide = Math.min(width, Math.max(side(columns), least));
    const fitting = wide > side(columns) ? Math.max(1, Math.floor((width + gap) / (wide + gap))) : columns;
    grid.style.gridTemplateColumns = `repeat(${fitting}, ${wide}px)`;
    for (const panel of panels) panel.canvas.style.height = `${Math.round(wide / ratio)}px`;
    paint();
  }

  const size = new ResizeObserver(() => { fit(); nameSliders(); });
  for (const node of [el, document.documentElement]) size.observe(node);
  window.addEventListener("resize", fit);
  model.on("change:colour_bar", showPalette);
  model.on("change:panels", show);
  model.on("change:message", show);
  model.on("change:values", describe);
  showPalette();
  show();
  model.send({ ready: true });
  return () => {
    document.removeEventListener("keydown", onKey, true);
    document.removeEventListener("click", onClick);
    window.removeEventListener("resize", fit);
    size.disconnect();
  };
}
export default { render };
