// Messages: errors that stay until dismissed, and a line that screen readers read out.

import { make } from "./results.js";
import { say } from "./words.js";

const MOST = 5;

export class Notices {
  #list;
  #status;
  #shown = [];

  constructor(list, status) {
    this.#list = list;
    this.#status = status;
  }

  /** Shows a Refusal, about `file` if any. retry(): called by "Try again". The same text is shown once. */
  tell(refusal, { file = "", retry = null } = {}) {
    const text = lineOf(refusal, file);
    this.forget((one) => lineOf(one.refusal, one.file) === text);
    const notice = { refusal, file, retry };
    this.#shown.push(notice);
    this.#add(notice);
    while (this.#shown.length > MOST) this.forget((one) => one === this.#shown[0]);
  }

  /** Removes the messages for which `which({ refusal, file })` is true. */
  forget(which) {
    for (const notice of this.#shown.filter(which)) notice.item.remove();
    this.#shown = this.#shown.filter((one) => !which(one));
  }

  /** Makes screen readers read `text`. */
  say(text) {
    if (this.#status.textContent !== text) this.#status.textContent = text;
  }

  /** Shows the messages in the page's language. */
  render() {
    this.#list.replaceChildren();
    for (const notice of this.#shown) this.#add(notice);
  }

  #add(notice) {
    const text = make("p", "", lineOf(notice.refusal, notice.file));
    if (notice.refusal.kind === "refused") text.lang = "en"; // the server's own line
    const button = (key, act = () => {}) => {
      const element = make("button", "plain", say(key));
      element.type = "button";
      element.addEventListener("click", () => {
        this.forget((one) => one === notice);
        act();
      });
      return element;
    };
    const buttons = notice.retry ? [button("retry", notice.retry)] : [];
    notice.item = make("li", "notice", [text, ...buttons, button("dismiss")]);
    this.#list.append(notice.item);
  }
}

/** A Refusal in one line that names the file; the server's message mostly names it already. */
export function lineOf({ kind, values }, file = "") {
  const what = say(kind, values);
  return !file || what.includes(file) ? what : say("inPhoto", { file, what });
}
