// Says so when the page was opened from a folder: browsers load no modules from there.

document.getElementById("opened-as-file").hidden = location.protocol !== "file:";
