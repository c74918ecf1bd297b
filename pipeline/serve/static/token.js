// Asks the user for the server's token; the caller keeps it in memory only.

import { say } from "./words.js";

/** A function that asks for the token and resolves to it, or to null when the user cancels. */
export function tokenDialog({ dialog, form, value, help, cancel }) {
  let entered = null;
  cancel.addEventListener("click", () => dialog.close());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    entered = value.value.trim() || null;
    dialog.close();
  });
  return (wrong) =>
    new Promise((done) => {
      entered = null;
      value.value = "";
      help.textContent = say(wrong ? "tokenWrong" : "tokenAsk");
      dialog.addEventListener(
        "close",
        () => {
          value.value = "";
          done(entered);
        },
        { once: true },
      );
      dialog.showModal();
    });
}
