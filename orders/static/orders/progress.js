// Keeps an order's page up to date: while the order is moving, fetches the page again every second and puts the new
// progress in place of the old. Gives up after an hour, or when the page that comes back is another (logged out).
"use strict";

(() => {
  const EVERY = 1000;
  const UNTIL = Date.now() + 60 * 60 * 1000;

  const progress = () => document.getElementById("progress");

  const look = async () => {
    const answer = await fetch(window.location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) return; // the server has a bad moment: look again
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = page.getElementById("progress");
    if (now === null) {
      delete progress().dataset.moving;
    } else if (now.outerHTML !== progress().outerHTML) {
      progress().replaceWith(document.adoptNode(now));
    }
  };

  const next = () => {
    if ("moving" in progress().dataset && Date.now() < UNTIL) setTimeout(turn, EVERY);
  };

  const turn = () => {
    const looking = document.hidden ? Promise.resolve() : look();
    looking.catch((error) => console.warn("The order could not be fetched:", error)).finally(next);
  };

  next();
})();
