// The thumbnail strip: one button per sample near the current one.

function render({ model, el }) {
  const list = document.createElement("ol");
  list.className = "adlib-thumbnails";
  list.ariaLabel = "Samples near the current one";
  el.append(list);
  let addresses = [];

  function draw() {
    const focused = list.contains(document.activeElement);
    addresses.forEach((address) => URL.revokeObjectURL(address));
    addresses = [];
    list.replaceChildren(...model.get("thumbnails").map(({ position, jpeg, label, alt, outcome }) => {
      const image = Object.assign(document.createElement("img"), { alt, draggable: false });
      if (jpeg.byteLength) {
        image.src = URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" }));
        addresses.push(image.src);
      }
      const text = Object.assign(document.createElement("span"), { textContent: label });
      const button = Object.assign(document.createElement("button"), { type: "button", title: alt });
      button.dataset.outcome = outcome;
      button.append(image, text);
      button.addEventListener("click", () => model.send({ go: position }));
      if (position === model.get("current")) button.setAttribute("aria-current", "true");
      const item = document.createElement("li");
      item.append(button);
      return item;
    }));
    if (focused) list.querySelector("[aria-current]")?.focus({ preventScroll: true });
  }
  model.on("change:thumbnails", draw);
  model.on("change:current", draw);
  draw();
}
export default { render };
