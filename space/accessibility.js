// Gradio's image slider can be dragged but not reached from the keyboard, and its pictures have no text alternative.
// This gives every slider both: Tab reaches the handle, arrow keys, Home and End move it.
(() => {
  const drag = (handle, wrap, fraction) => {
    const box = wrap.querySelector("img").getBoundingClientRect();
    const y = box.top + box.height / 2;
    const send = (target, type, x) =>
      target.dispatchEvent(new MouseEvent(type, { view: window, bubbles: true, cancelable: true, clientX: x, clientY: y }));
    const grip = handle.querySelector(".inner").getBoundingClientRect();
    send(handle, "mousedown", grip.left + grip.width / 2);
    send(window, "mousemove", box.left + box.width * fraction);
    send(window, "mouseup", box.left + box.width * fraction);
    handle.setAttribute("aria-valuenow", Math.round(100 * fraction));
  };
  const adopt = (wrap) => {
    const [before, after] = wrap.querySelectorAll('img[data-testid="imageslider-image"]');
    const handle = wrap.querySelector('[data-testid="slider"]');
    if (!before || !after || !handle) return;
    before.alt = "Before: the photograph with rain";
    after.alt = "After: the same photograph with the rain removed";
    if (handle.tabIndex === 0) return;
    const attributes = { role: "slider", "aria-label": "Share of the picture shown before deraining",
                         "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 50 };
    Object.entries(attributes).forEach(([name, value]) => handle.setAttribute(name, value));
    handle.tabIndex = 0;
    handle.addEventListener("keydown", (event) => {
      const now = Number(handle.getAttribute("aria-valuenow"));
      const next = { ArrowLeft: now - 5, ArrowDown: now - 5, ArrowRight: now + 5, ArrowUp: now + 5, Home: 0, End: 100 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      drag(handle, wrap, Math.min(100, Math.max(0, next)) / 100);
    });
  };
  new MutationObserver(() => document.querySelectorAll(".slider-wrap .wrap").forEach(adopt))
    .observe(document.documentElement, { childList: true, subtree: true });
})();
