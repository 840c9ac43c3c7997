// Light and dark: as the system says, or as the button says. The choice is kept in this browser.

import { icon } from "./dom.js";

const KEY = "twinspire-theme";
const THEMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

/** Let a button go through the themes. */
export function themeButton(button) {
  let theme = stored();
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.replaceChildren(icon(theme));
    button.setAttribute("aria-label", THEMES[theme]);
    button.title = THEMES[theme];
  };
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // Without storage the choice holds until the page is left.
    }
    show();
  });
  show();
}

function stored() {
  try {
    const found = localStorage.getItem(KEY);
    return found in THEMES ? found : "auto";
  } catch {
    return "auto";
  }
}
