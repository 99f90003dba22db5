// What browsers with JavaScript have beyond the pages themselves, which work without: the next picture is there at once,
// answers are sent again until they are saved, times are measured, arrow keys answer.
"use strict";

(() => {
  const status = document.getElementById("status");
  let seenAt = null; // when the picture was there to be seen
  let clock = 0;

  const say = (name) => { status.textContent = name ? status.dataset[name] : ""; };
  const pause = (ms) => new Promise((resolve) => {
    setTimeout(resolve, ms);
    addEventListener("online", resolve, { once: true });
  });

  const lock = (form, locked) => {
    for (const button of form.querySelectorAll("button")) button.disabled = locked;
  };

  // Wait until the picture can be seen, however often it must be asked for.
  async function arrival(picture) {
    for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
      try {
        await picture.decode();
        return;
      } catch {
        if (!picture.isConnected) return;
        say("noPicture");
        await pause(wait);
        picture.src = picture.getAttribute("src");
      }
    }
  }

  async function begin() {
    const form = document.querySelector(".trial");
    seenAt = null;
    clearInterval(clock);
    if (!form) return;
    lock(form, true);
    const picture = form.querySelector("img");
    if (picture) await arrival(picture);
    if (!form.isConnected) return;
    say("");
    await new Promise(requestAnimationFrame);
    seenAt = performance.now();
    lock(form, false);
    if (form.dataset.next) new Image().src = `pictures/${form.dataset.next}`;
    if (Number(form.dataset.limit)) limit(form);
  }

  function limit(form) {
    const bar = form.querySelector(".time");
    const end = performance.now() + 1000 * form.dataset.limit;
    bar.hidden = false;
    clock = setInterval(() => {
      bar.value = Math.max(0, end - performance.now()) / 1000;
      if (bar.value <= 0) send(form, "none");
    }, 100);
  }

  // Send an answer until it is saved: the server counts it once, however often it comes.
  async function send(form, answer) {
    if (seenAt === null || form.dataset.sent) return;
    form.dataset.sent = "yes";
    clearInterval(clock);
    form.elements.time_ms.value = Math.round(performance.now() - seenAt);
    const body = new URLSearchParams(new FormData(form));
    body.set("answer", answer);
    lock(form, true);
    const slow = setTimeout(say, 1000, "saving");
    let page = null;
    for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
      page = await post(form.action, body);
      clearTimeout(slow);
      if (page) break;
      await pause(wait);
    }
    if (page.html) turn(page);
    else location.reload(); // the server wants none of this: it knows better where we are
  }

  // Nothing when it is worth trying again.
  async function post(url, body) {
    try {
      const response = await fetch(url, { method: "POST", body });
      if (response.ok) return { html: await response.text(), url: response.url };
      if (response.status < 500 && response.status !== 429) return { html: "" };
      say("saving");
    } catch {
      say("offline");
    }
    return null;
  }

  function turn({ html, url }) {
    const page = new DOMParser().parseFromString(html, "text/html");
    document.getElementById("main").replaceWith(page.getElementById("main"));
    document.title = page.title;
    history.replaceState(null, "", url);
    say("");
    document.querySelector("h1").focus();
    begin();
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.matches(".trial")) {
      event.preventDefault();
      send(form, event.submitter.value);
    } else if (form.dataset.sent) {
      event.preventDefault(); // a double click
    } else {
      form.dataset.sent = "yes";
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const button = document.querySelector(`.trial [data-key="${CSS.escape(event.key)}"]`);
    if (button) {
      event.preventDefault();
      send(button.form, button.value);
    }
  });

  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  document.documentElement.classList.add("script");
  begin();
})();
