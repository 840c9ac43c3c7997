// Light and dark: as the system says, or as the button says. The choice is kept in this browser.

const KEY = "twinspire-theme";
const THEMES = ["Auto", "Light", "Dark"];

/** Let a button go through the themes. */
export function themeButton(button) {
  const show = (theme) => {
    if (theme === "Auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme.toLowerCase();
    button.textContent = theme;
    button.title = theme === "Auto" ? "Theme: as the system" : `Theme: ${theme.toLowerCase()}`;
    button.onclick = () => {
      const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      stored((storage) => storage.setItem(KEY, next));
      show(next);
    };
  };
  const kept = stored((storage) => storage.getItem(KEY));
  show(THEMES.includes(kept) ? kept : "Auto");
}

/** What a function of the storage gives; null where the browser keeps none: then a choice holds until a reload. */
function stored(use) {
  try {
    return use(localStorage);
  } catch {
    return null;
  }
}
