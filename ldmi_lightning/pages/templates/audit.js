"use strict";
const choice = document.getElementById("pair");
const said = document.getElementById("shown");
const suspects = Array.from(document.querySelectorAll("#suspects > li"));
function filter() {
  let shown = 0;
  for (const each of suspects) {
    each.hidden = choice.value !== "" && each.dataset.pair !== choice.value;
    shown += each.hidden ? 0 : 1;
  }
  said.textContent = shown + " of " + suspects.length + " shown";
}
if (choice) {
  document.getElementById("filter").hidden = false;
  choice.addEventListener("change", filter);
  filter(); // a browser that reloads the page may keep the choice
}
