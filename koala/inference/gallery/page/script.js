// What browsers with JavaScript have beyond the page itself, which works without: photos can be dropped and pasted, a
// slider uncovers the colours, and a slider that is moved colours again.
"use strict";

(() => {
  const PATIENCE_MS = 300; // after a slider was moved

  const root = document.documentElement;
  const form = document.querySelector("form");
  const [status, figure, before, after, split, download] =
    ["status", "comparison", "before", "after", "split", "download"].map((id) => document.getElementById(id));
  let photo = null;
  let request = new AbortController(); // what is under way
  let moved = 0;

  const say = (text) => { status.textContent = text.trim(); };

  function show(image, blob) {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    image.hidden = false;
  }

  function choose(files) {
    if (!files.length) return;
    photo = files[0];
    for (const part of [figure, after, split, download, ...document.querySelectorAll(".result")]) part.hidden = true;
    after.removeAttribute("src");
    before.classList.remove("grey");
    show(before, photo);
    color();
  }

  async function color() {
    clearTimeout(moved);
    request.abort();
    if (photo.size > form.dataset.megabytes * 1e6) {
      say(`This photo is larger than ${form.dataset.megabytes} MB; take a smaller one.`);
      return;
    }
    const { signal } = request = new AbortController();
    const body = new FormData(form);
    body.set("photo", photo, photo.name);
    say("Colouring …");
    const clock = setInterval(wait, 1000, signal);
    try {
      const response = await fetch("colored", { method: "POST", body, signal });
      if (response.ok) reveal(await response.blob(), response.headers.get("content-disposition").split("''")[1]);
      say(response.ok ? "" : await response.text());
    } catch (error) {
      if (!signal.aborted) say("The gallery does not answer; is koala still running?");
    } finally {
      clearInterval(clock);
      if (request.signal === signal) request.abort(); // a line that is still asked for has nothing to say any more
    }
  }

  async function wait(signal) {
    try {
      const others = await (await fetch("line", { signal })).text() - 1;
      if (others > 0) say(`Waiting: photos are coloured one at a time, and ${others} more ${others > 1 ? "are" : "is"} in the line.`);
      else say("Colouring …");
    } catch { /* it is over, or the photo's own request says what is wrong */ }
  }

  function reveal(blob, name) {
    show(after, blob);
    download.href = after.src;
    download.download = decodeURIComponent(name);
    figure.hidden = split.hidden = download.hidden = false;
    if (before.classList.contains("grey")) before.src = after.src;
  }

  // A photo that the browser cannot show, as a TIFF, is shown as koala's picture without its colours.
  before.addEventListener("error", () => {
    before.classList.add("grey");
    if (after.hidden) figure.hidden = true;
    else before.src = after.src;
  });
  before.addEventListener("load", () => { figure.hidden = false; });

  split.addEventListener("input", () => figure.style.setProperty("--split", `${split.value}%`));

  form.querySelector("fieldset").addEventListener("input", (event) => {
    event.target.parentElement.querySelector("output").value = event.target.value;
    clearTimeout(moved);
    if (photo) moved = setTimeout(color, PATIENCE_MS);
  });

  form.elements.photo.addEventListener("change", (event) => choose(event.target.files));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("paste", (event) => choose(event.clipboardData.files));
  addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) root.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("over");
    choose(event.dataTransfer.files);
  });

  root.classList.add("script");
})();
