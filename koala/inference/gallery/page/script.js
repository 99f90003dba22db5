// What browsers with JavaScript have beyond the page itself, which works without: several photos, dropped or pasted too;
// a slider that uncovers the colours; dabs of colour, where the model takes them; and a picture that follows them all.
//
// The server keeps nothing. It makes a photo small once; the small one travels while colours are tried, and the photo
// itself when something is downloaded.
"use strict";

(() => {
  const PATIENCE_MS = 150; // after the last change
  const STEP = 0.01, LEAP = 0.05; // of a dab by an arrow key, without and with Shift
  const ALIKE = 0.02; // by which the proportions of a photo and of its hints may differ, for rounding

  const root = document.documentElement;
  const form = document.querySelector("form");
  const [status, strip, figure, before, after, split, sample, downloads, reset] =
    ["status", "photos", "comparison", "before", "after", "split", "sample", "downloads", "reset"]
      .map((id) => document.getElementById(id));
  const [board, hints, palette, suggestions, picker, dabSize, remove, add, undo, load, hintsFile] =
    ["dabs", "hints", "palette", "suggestions", "picker", "dab-size", "remove", "add", "undo", "load", "hints-file"]
      .map((id) => document.getElementById(id)); // none of them where the model takes no hints
  const { preset, temperature } = form.elements; // where the model has them
  const sliders = [...form.querySelectorAll(".slider input")];

  const photos = []; // each: file, button, dabs, past (dabs before), small (a file), url (of it), picture (an address)
  let photo = null; // the one that is shown
  let chosen = -1; // which of its dabs
  let change = ""; // the last one: the same again is undone together with it
  let suggested = ""; // what the colours that are offered were asked for
  let timer = 0;
  let painting = new AbortController(), suggesting = new AbortController(); // what is under way

  // ---- asking the server

  class Refused extends Error {}

  const busy = new Set();
  let complaint = "";
  let sent = 0; // files that the server has from here

  /** Somebody does something: what went wrong before is read. Work that only follows takes no other's words away. */
  function begin() {
    complaint = "";
    report();
  }

  function report() { status.textContent = [...busy].at(-1)?.words ?? complaint; }

  /** What a server makes of a file, as a response. */
  async function ask(address, file, dabs, signal) {
    if (file.size > form.dataset.megabytes * 1e6) {
      throw new Refused(`${file.name} is larger than ${form.dataset.megabytes} MB; take a smaller one.`);
    }
    const body = new FormData(form);
    body.set("photo", file, file.name);
    body.set("dabs", JSON.stringify(dabs));
    sent++;
    try {
      const response = await fetch(address, { method: "POST", body, signal });
      if (!response.ok) throw new Refused((await response.text()).trim());
      return response;
    } finally {
      sent--;
    }
  }

  /** Do some work, and say so, how long the line is, and what goes wrong. */
  async function work(words, signal, job) {
    const task = { words };
    const clock = setInterval(async () => {
      const others = await fetch("line").then((response) => response.text(), () => sent) - sent;
      task.words = others > 0 ? `Waiting: photos are coloured one at a time, and ${others} more ${others > 1 ? "are" : "is"} in the line.` : words;
      report();
    }, 1000);
    busy.add(task);
    report();
    try {
      await job();
    } catch (error) {
      if (!signal.aborted) complaint = error instanceof Refused ? error.message : "The gallery does not answer; is koala still running?";
    } finally {
      clearInterval(clock);
      busy.delete(task);
      report();
    }
  }

  const wishes = (one) => JSON.stringify([one.dabs, preset?.value, sliders.map((slider) => slider.value)]);

  /** Bring the picture up to date with the dabs and sliders. */
  function paint() {
    painting.abort();
    const one = photo, asked = wishes(one), { signal } = painting = new AbortController();
    if (one.painted === asked) return;
    work(one.small ? "Colouring …" : "Reading the photo …", signal, async () => {
      if (!one.small) await reduce(one, signal);
      const response = await ask("colored", one.small, one.dabs, signal);
      URL.revokeObjectURL(one.picture);
      one.picture = URL.createObjectURL(await response.blob());
      one.painted = asked;
      if (one === photo) show();
    });
  }

  async function reduce(one, signal) {
    const blob = await (await ask("reduced", one.file, [], signal)).blob();
    one.small = new File([blob], one.file.name, { type: blob.type });
    one.url = URL.createObjectURL(blob);
    const image = new Image();
    image.src = one.url;
    image.alt = one.file.name;
    one.button.replaceChildren(image);
    if (one === photo) show();
  }

  function paintSoon() {
    begin();
    clearTimeout(timer);
    timer = setTimeout(() => { paint(); suggest(); }, PATIENCE_MS);
  }

  function download(address) {
    begin();
    const one = photo, { signal } = new AbortController();
    work("Making the file at full size …", signal, async () => {
      const response = await ask(address, one.file, one.dabs, signal);
      const link = document.createElement("a");
      link.download = decodeURIComponent(response.headers.get("content-disposition").split("''")[1]);
      link.href = URL.createObjectURL(await response.blob());
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
  }

  // ---- photos

  function choose(files) {
    const first = photos.length;
    for (const file of files) {
      const one = { file, dabs: [], past: [], button: document.createElement("button") };
      one.button.type = "button";
      one.button.textContent = file.name;
      one.button.addEventListener("click", () => select(one));
      photos.push(one);
      strip.append(one.button);
    }
    if (photos.length > first) select(photos[first]);
  }

  function select(one) {
    begin();
    photo = one;
    chosen = -1;
    change = suggested = "";
    for (const each of photos) each.button.setAttribute("aria-pressed", each === one);
    for (const part of document.querySelectorAll(".result")) part.remove();
    show();
    paint();
  }

  /** Show what there is of the photo. */
  function show() {
    strip.hidden = photos.length < 2;
    figure.hidden = !photo.url;
    after.hidden = split.hidden = downloads.hidden = !photo.picture;
    if (photo.url && before.src !== photo.url) before.src = photo.url;
    if (photo.picture) after.src = photo.picture;
    if (board) showDabs();
  }

  // ---- dabs of colour: [x, y, "#rrggbb", size], from the left and the top in shares of the picture

  const within = (share) => Math.round(Math.min(1, Math.max(0, share)) * 1e4) / 1e4;
  const percent = (share) => `${Math.round(100 * share)} %`;

  /** Change the dabs; changes of one name that follow each other are undone together. */
  function set(dabs, name = "") {
    if (!name || name !== change) photo.past.push(photo.dabs);
    change = name;
    photo.dabs = dabs;
    showDabs();
    paintSoon();
  }

  function put(x, y) {
    set([...photo.dabs, [within(x), within(y), colorAt(x, y), dabSize.value]]);
    pick(photo.dabs.length - 1);
    board.lastChild.focus();
  }

  const alter = (place, dab, name) => set(photo.dabs.with(place, dab), name);

  function move(place, x, y, name) { alter(place, [within(x), within(y), ...photo.dabs[place].slice(2)], name); }

  function drop(place) {
    set(photo.dabs.toSpliced(place, 1));
    (board.children[chosen] ?? add).focus();
  }

  function stepBack() {
    if (!photo?.past.length) return;
    photo.dabs = photo.past.pop();
    change = "";
    showDabs();
    paintSoon();
  }

  function pick(place) {
    if (place === chosen) return;
    chosen = place;
    suggested = "";
    suggestions.replaceChildren();
    showDabs();
    paintSoon();
  }

  /** The colour that the picture has at a place: a dab keeps it until another is chosen. */
  function colorAt(x, y) {
    const canvas = document.createElement("canvas");
    const at = (share, length) => Math.min(length - 1, Math.floor(share * length));
    canvas.width = canvas.height = 1;
    const paper = canvas.getContext("2d");
    paper.drawImage(after, at(x, after.naturalWidth), at(y, after.naturalHeight), 1, 1, 0, 0, 1, 1);
    return `#${[...paper.getImageData(0, 0, 1, 1).data].slice(0, 3).map((level) => level.toString(16).padStart(2, "0")).join("")}`;
  }

  /** A word for a colour, for those who do not see it. */
  function nameOf(color) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const most = Math.max(red, green, blue), range = most - Math.min(red, green, blue);
    if (range < 20) return "grey";
    const sixth = most === red ? (green - blue) / range : most === green ? 2 + (blue - red) / range : 4 + (red - green) / range;
    const name = ["red", "orange", "yellow", "lime", "green", "turquoise", "cyan", "sky blue", "blue", "violet", "magenta", "pink"][Math.round(2 * sixth + 12) % 12];
    return name === "orange" && most < 200 ? "brown" : name;
  }

  function showDabs() {
    chosen = Math.min(chosen, photo.dabs.length - 1);
    while (board.children.length > photo.dabs.length) board.lastChild.remove();
    while (board.children.length < photo.dabs.length) board.append(newDab(board.children.length));
    photo.dabs.forEach(([x, y, color, size], place) => {
      const dab = board.children[place];
      dab.style.left = `${100 * x}%`;
      dab.style.top = `${100 * y}%`;
      dab.style.setProperty("--color", color);
      dab.dataset.size = size;
      dab.setAttribute("aria-label", `Dab ${place + 1}, ${nameOf(color)}, ${size}, ${percent(x)} across, ${percent(y)} down`);
      dab.setAttribute("aria-pressed", place === chosen);
    });
    hints.hidden = !photo.picture;
    palette.hidden = chosen < 0;
    undo.disabled = !photo.past.length;
    if (chosen >= 0) [, , picker.value, dabSize.value] = photo.dabs[chosen];
    for (const each of suggestions.children) each.setAttribute("aria-pressed", each.value === photo.dabs[chosen]?.[2]);
  }

  /** A control of its own for each dab: chosen by click or focus, moved by pointer or arrow keys. */
  function newDab(place) {
    const dab = document.createElement("button");
    let drag = "", pressed = null;
    dab.type = "button";
    dab.setAttribute("aria-describedby", "keys");
    dab.addEventListener("focus", () => pick(place));
    dab.addEventListener("pointerdown", (event) => {
      dab.focus();
      dab.setPointerCapture(event.pointerId);
      drag = `drag ${event.timeStamp}`;
      pressed = event;
    });
    dab.addEventListener("pointermove", (event) => {
      // a finger that rests moves nothing; movementX would not tell: in WebKit that of fingers is always 0
      if (!drag || (pressed?.clientX === event.clientX && pressed?.clientY === event.clientY)) return;
      pressed = null;
      const area = board.getBoundingClientRect();
      move(place, (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height, drag);
    });
    for (const end of ["pointerup", "pointercancel"]) dab.addEventListener(end, () => { drag = ""; });
    dab.addEventListener("keydown", (event) => {
      const [x, y] = photo.dabs[place], step = event.shiftKey ? LEAP : STEP;
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      if (dx || dy) move(place, x + dx * step, y + dy * step, `keys ${place}`);
      else if (event.key === "Delete" || event.key === "Backspace") drop(place);
      else return;
      event.preventDefault();
    });
    return dab;
  }

  /** Offer the colours that the network thinks likely at the chosen dab, given all others. */
  async function suggest() {
    if (chosen < 0 || !photo.small) return;
    const others = photo.dabs.toSpliced(chosen, 1), dab = photo.dabs[chosen];
    const asked = wishes({ dabs: [...others, dab.slice(0, 2)] }); // its own colour and size do not matter
    if (asked === suggested) return;
    suggested = asked;
    suggesting.abort();
    const { signal } = suggesting = new AbortController();
    try {
      const found = await (await ask("suggested", photo.small, [...others, dab], signal)).json();
      suggestions.replaceChildren(...found.map(([color, share]) => swatch(color, share)));
      showDabs();
    } catch {
      if (!signal.aborted) suggested = ""; // the picture's own request says what is wrong
    }
  }

  function swatch(color, share) {
    const button = document.createElement("button");
    button.type = "button";
    button.value = color;
    button.title = `${nameOf(color)}, ${share < 0.01 ? "under 1 %" : percent(share)} likely`;
    button.setAttribute("aria-label", button.title);
    button.style.setProperty("--color", color);
    button.addEventListener("click", () => recolor(color));
    return button;
  }

  function recolor(color, name) {
    alter(chosen, photo.dabs[chosen].with(2, color), name);
  }

  const holdsHints = (file) => board && /\.ora$|-hints( ?\(\d+\))?\.png$/i.test(file.name); // as downloads are called

  /** Replace the dabs by those of a file. */
  function loadHints(file) {
    begin();
    const one = photo, { signal } = new AbortController();
    work("Reading the hints …", signal, async () => {
      if (!one) throw new Refused("Choose a photo first, and then its hints.");
      if (!one.small) await reduce(one, signal);
      await before.decode();
      const { width, height, dabs } = await (await ask("dabs", file, [], signal)).json();
      if (one !== photo) return; // another one is shown, to which these do not belong
      if (Math.abs(width * before.naturalHeight / (height * before.naturalWidth) - 1) > ALIKE) {
        throw new Refused(`${file.name} belongs to a photo of another shape, ${width} x ${height} pixels; choose other hints.`);
      }
      chosen = -1;
      set(dabs.map(([x, y, color, size]) => [within(x), within(y), color, size]));
    });
  }

  if (board) {
    figure.addEventListener("click", (event) => {
      if (event.target !== before && event.target !== after || !photo.picture) return;
      const area = board.getBoundingClientRect();
      put((event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
    });
    add.addEventListener("click", () => put(0.5, 0.5));
    remove.addEventListener("click", () => drop(chosen));
    undo.addEventListener("click", stepBack);
    picker.addEventListener("input", () => recolor(picker.value, `picker ${chosen}`));
    dabSize.addEventListener("change", () => alter(chosen, photo.dabs[chosen].with(3, dabSize.value)));
    load.addEventListener("click", () => hintsFile.click());
    hintsFile.addEventListener("change", () => {
      if (hintsFile.files.length) loadHints(hintsFile.files[0]);
      hintsFile.value = "";
    });
    addEventListener("keydown", (event) => {
      if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey) return;
      event.preventDefault();
      stepBack();
    });
    root.classList.add("hinting");
  }

  // ---- all else on the page

  function showValues() { for (const slider of sliders) slider.parentElement.querySelector("output").value = slider.value; }

  form.querySelector("fieldset").addEventListener("input", (event) => {
    if (event.target === preset && temperature) temperature.value = preset.selectedOptions[0].dataset.temperature;
    showValues();
    if (photo) paintSoon();
  });
  reset.addEventListener("click", () => {
    if (preset) preset.selectedIndex = 0;
    for (const slider of sliders) slider.value = slider.defaultValue;
    showValues();
    chosen = -1;
    if (photo.dabs.length) set([]);
    else paintSoon();
  });
  const uncover = () => figure.style.setProperty("--split", `${split.value}%`);
  split.addEventListener("input", uncover);
  uncover();
  downloads.addEventListener("click", (event) => { if (event.target.value) download(event.target.value); });

  sample?.addEventListener("click", async (event) => {
    event.preventDefault();
    const blob = await (await fetch(sample.href)).blob();
    choose([new File([blob], sample.download, { type: blob.type })]);
  });
  function take(files) {
    const given = [...files];
    choose(given.filter((file) => !holdsHints(file)));
    given.filter(holdsHints).forEach(loadHints);
  }

  form.elements.photo.multiple = true;
  form.elements.photo.addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // the same file can be chosen again
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("paste", (event) => take(event.clipboardData.files));
  addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) root.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("over");
    take(event.dataTransfer.files);
  });

  root.classList.add("script");
})();
