// Language and colours: the device's preference, unless the user chooses; the browser keeps the choice.

const LANGUAGE = "language";
const THEME = "theme";
const darkDevice = matchMedia("(prefers-color-scheme: dark)");

// A browser that forbids storage throws; then choices are kept until the page is closed.
function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function keep(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // the choice is not kept
  }
}

/** Sets both selects and calls `onLanguage(code)` now and at each change. */
export function settings(languageSelect, themeSelect, onLanguage) {
  const language = kept(LANGUAGE) ?? (navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en");
  languageSelect.value = language === "ko" ? "ko" : "en";
  themeSelect.value = ["light", "dark"].includes(kept(THEME)) ? kept(THEME) : "auto";

  const colour = () => {
    const dark = themeSelect.value === "auto" ? darkDevice.matches : themeSelect.value === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  languageSelect.addEventListener("change", () => {
    keep(LANGUAGE, languageSelect.value);
    onLanguage(languageSelect.value);
  });
  themeSelect.addEventListener("change", () => {
    keep(THEME, themeSelect.value);
    colour();
  });
  darkDevice.addEventListener("change", colour);
  colour();
  onLanguage(languageSelect.value);
}
