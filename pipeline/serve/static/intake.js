// Receives photos: chosen, taken with a phone's camera, dropped anywhere, pasted.

/** Calls onFiles(files) for each of these ways; with no files when a drop or paste holds none. */
export function intake({ choose, files, take, shot, dropHere }, onFiles) {
  for (const [button, input] of [[choose, files], [take, shot]]) {
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      const chosen = [...input.files];
      input.value = ""; // so that the same file can be chosen again
      if (chosen.length) onFiles(chosen);
    });
  }

  const holdsFiles = ({ dataTransfer }) => [...(dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser would leave the page for the file
    if (holdsFiles(event)) dropHere.hidden = false;
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (relatedTarget === null) dropHere.hidden = true;
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    dropHere.hidden = true;
    onFiles([...(event.dataTransfer?.files ?? [])]);
  });
  addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (!pasted.length) return; // text, for a field
    event.preventDefault();
    onFiles(pasted);
  });
}
