"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => { try { return localStorage.getItem("halfmap-theme"); } catch { return null; } };
  const show = (theme) => { root.dataset.theme = theme; };
  show(kept() || (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => { if (!kept()) show(dark.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    show(theme);
    try { localStorage.setItem("halfmap-theme", theme); } catch { /* a private window keeps nothing */ }
  });

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try { await navigator.clipboard.writeText(code.textContent); button.textContent = "copied"; }
      catch { getSelection().selectAllChildren(code); }
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      if (body.rows[0] && body.rows[0].cells[column].classList.contains("n")) heading.classList.add("n");
      heading.firstElementChild.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sign = down ? -1 : 1;
        const key = (row) => { const cell = row.cells[column]; return cell.dataset.key ?? cell.textContent; };
        const rows = [...body.rows].map((row) => [key(row), row]);
        rows.sort(([a], [b]) => {
          const x = parseFloat(a), y = parseFloat(b);
          if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
          return sign * (isNaN(x) || String(a).match(/[^\d.eE+-]/) ? a.localeCompare(b, undefined, { numeric: true }) : x - y);
        });
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  const large = document.getElementById("large");
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const picture = button.querySelector("img");
      if (!picture) return;
      large.querySelector("img").src = picture.src;
      large.querySelector("p").textContent = picture.alt;
      large.showModal();
    });
  }
  large.addEventListener("click", () => large.close());

  const one = document.getElementById("one");
  let shown = null; // the card whose entry is open
  const open = (card) => {
    shown = card;
    const order = [...card.parentElement.children];
    const entry = document.querySelector(card.hash).cloneNode(true);
    entry.removeAttribute("id");
    one.querySelector(".place").replaceChildren(entry);
    one.querySelector(".turn span").textContent = `${order.indexOf(card) + 1} of ${order.length}`;
    if (!one.open) one.showModal();
    one.querySelector(".place").focus();
  };
  const turn = (step) => {
    const order = [...shown.parentElement.children];
    open(order[(order.indexOf(shown) + step + order.length) % order.length]);
  };
  for (const button of one.querySelectorAll("button[data-step]")) button.addEventListener("click", () => turn(Number(button.dataset.step)));
  one.querySelector(".close").addEventListener("click", () => one.close());
  one.addEventListener("click", (event) => { if (event.target === one) one.close(); });
  one.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); turn(step); }
  });
  one.addEventListener("close", () => { if (shown) shown.focus(); });

  for (const gallery of document.querySelectorAll(".ranked")) {
    const cards = gallery.querySelector(".cards"), bar = gallery.querySelector(".ranking");
    const items = [...cards.children].map((card) => [JSON.parse(card.dataset.values), card]);
    const buttons = [...bar.querySelectorAll("button[data-index]")];
    let chosen = null, down = true;
    const rank = (button, falls) => {
      chosen = button; down = falls;
      const index = Number(button.dataset.index);
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button));
        other.textContent = other.textContent.replace(/ [↑↓]$/, "") + (other === button ? (falls ? " ↓" : " ↑") : "");
      }
      const sorted = [...items].sort(([a], [b]) => {
        const x = a[index], y = b[index];
        if (x === null || y === null) return (x === null) - (y === null);
        return falls ? y - x : x - y;
      });
      cards.append(...sorted.map(([, card]) => card));
      for (const line of cards.querySelectorAll("[data-quantity]")) line.classList.toggle("chosen", line.dataset.quantity === button.dataset.index);
    };
    for (const button of buttons) {
      button.addEventListener("click", () => rank(button, button === chosen ? !down : button.dataset.best === "high"));
    }
    if (buttons.length) rank(buttons[0], buttons[0].dataset.best === "high");
    for (const [, card] of items) {
      const picture = card.querySelector("img");
      if (picture) document.querySelector(card.hash).querySelector(".portrait").append(picture.cloneNode());
      card.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        open(card);
      });
    }
    const grey = bar.querySelector("input[type=checkbox]");
    if (grey) grey.addEventListener("change", () => gallery.classList.toggle("shared", grey.checked));
    bar.querySelector("input[type=range]").addEventListener("input", (event) => cards.style.setProperty("--tile", `${event.target.value}px`));
    gallery.querySelector(".entries").open = false;
    bar.hidden = false;
  }

  const KINDS = ["#37e0a0", "#ff6b6b", "#ffc145", "#6fb7ff"];
  const digits = (value) => Number(value.toPrecision(3)).toString();
  const colour = (share) => GRADIENT[Math.max(0, Math.min(GRADIENT.length - 1, Math.round(share * (GRADIENT.length - 1))))];
  for (const figure of document.querySelectorAll(".overlay")) {
    const stage = figure.querySelector(".stage"), canvas = figure.querySelector("canvas");
    const points = JSON.parse(stage.querySelector("script").textContent);
    const box = figure.querySelector("input[type=checkbox]"), slider = figure.querySelector("input[type=range]");
    const finite = (points.v || []).filter((value) => value !== null).sort((a, b) => a - b);
    const at = (share) => finite[Math.round(share * (finite.length - 1))];
    const low = finite.length ? at(0.02) : 0, high = finite.length ? at(0.98) : 1;
    const floor = () => slider && finite.length && slider.value > 0 ? finite[0] + (finite[finite.length - 1] - finite[0]) * slider.value / 1000 : -Infinity;
    const bar = figure.querySelector(".bar"), switches = [...figure.querySelectorAll(".kind input")];
    switches.forEach((kind, index) => {
      kind.nextElementSibling.style.borderColor = KINDS[index % KINDS.length];
      kind.addEventListener("change", () => draw());
    });
    if (bar) {
      bar.querySelector(".low").textContent = digits(low);
      bar.querySelector(".high").textContent = digits(high);
      bar.querySelector("i").style.background = `linear-gradient(90deg, ${GRADIENT.join(",")})`;
    }
    const draw = () => {
      const ratio = devicePixelRatio || 1, width = stage.clientWidth, height = stage.clientHeight;
      canvas.width = width * ratio; canvas.height = height * ratio;
      const pen = canvas.getContext("2d"), scale = width / points.w;
      pen.scale(ratio, ratio);
      const stroke = Math.max(1.2, Math.min(2.2, points.r * scale * 0.18));
      const limit = floor();
      const colourAt = (index, value) => {
        if (switches.length) return KINDS[points.k[index] % KINDS.length];
        return value === null ? (points.v ? "#ffffff" : KINDS[0]) : colour((value - low) / (high - low || 1));
      };
      let shown = 0;
      points.x.forEach((x, index) => {
        const value = points.v ? points.v[index] : null;
        if ((value !== null && value < limit) || (switches.length && !switches[points.k[index]].checked)) return;
        shown += 1;
        if (!box.checked) return;
        pen.beginPath();
        pen.arc((x + 0.5) * scale, (points.y[index] + 0.5) * height / points.h, points.r * scale, 0, 2 * Math.PI);
        pen.strokeStyle = "rgb(0 0 0 / 45%)";
        pen.lineWidth = stroke + 1.6;
        pen.stroke();
        pen.strokeStyle = colourAt(index, value);
        pen.lineWidth = stroke;
        pen.stroke();
      });
      const all = points.x.length;
      figure.querySelector(".count").textContent = shown === all ? `${all} positions` : `${shown} of ${all} positions`;
      if (slider) figure.querySelector("output").textContent = finite.length ? digits(limit === -Infinity ? finite[0] : limit) : "";
    };
    box.addEventListener("change", draw);
    if (slider) slider.addEventListener("input", draw);
    new ResizeObserver(draw).observe(stage);
  }

  const links = [...document.querySelectorAll("nav a")];
  if (links.length) {
    const sections = links.map((link) => document.querySelector(link.hash));
    const follow = () => {
      const passed = sections.filter((section) => section.getBoundingClientRect().top < innerHeight * 0.3);
      const here = Math.max(0, passed.length - 1);
      links.forEach((link, index) => link.classList.toggle("here", index === here));
    };
    addEventListener("scroll", follow, { passive: true });
    follow();
  }
})();
