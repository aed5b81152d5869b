// Returns the faults of the page that is open, as a list of texts; arguments[0] is the width of its window (px).
const faults = [];
const shown = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
const named = (element) => element.tagName.toLowerCase() + (element.className && typeof element.className === "string" ? `.${element.className.trim().split(/\s+/).join(".")}` : "");

// Text: the contrast of WCAG 2, 4.5 and 3 for large letters, against the colours behind it.
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const seen = new Map();
function rgba(color) {
  if (!seen.has(color)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    seen.set(color, [r, g, b, a / 255]);
  }
  return seen.get(color);
}
const over = ([r, g, b, a], under) => [r, g, b].map((c, k) => a * c + (1 - a) * under[k]);
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = (color) => 0.2126 * channel(color[0]) + 0.7152 * channel(color[1]) + 0.0722 * channel(color[2]);
function behind(element) {
  const layers = [];
  for (let each = element; each; each = each.parentElement) {
    const style = getComputedStyle(each);
    if (style.backgroundImage !== "none" && each !== document.body) return null;  // a picture: not judged
    const color = rgba(style.backgroundColor);
    if (color[3] > 0) layers.push(color);
    if (color[3] === 1) break;
  }
  const canvasColor = matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  return layers.reverse().reduce((under, layer) => over(layer, under), canvasColor);
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || ["SCRIPT", "STYLE", "NOSCRIPT", "TITLE"].includes(element.tagName) || element.closest("svg, [aria-hidden=true], math")) continue;
  if (!shown(element)) continue;
  const style = getComputedStyle(element);
  const ground = behind(element);
  if (!ground) continue;
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
  const [a, b] = [light(over(rgba(style.color), ground)), light(ground)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < (large ? 3 : 4.5)) faults.push(`contrast ${ratio.toFixed(2)} of ${named(element)} in ${named(element.parentElement)}: "${text.slice(0, 30)}"`);
}

// Controls have a name that a screen reader can say.
for (const control of document.querySelectorAll("input:not([type=hidden]), select, textarea, button")) {
  const label = control.getAttribute("aria-label") || control.getAttribute("aria-labelledby") || control.title || control.labels?.length;
  const own = control.tagName === "BUTTON" ? control.textContent.trim() : control.type === "submit" && control.value;
  if (!label && !own && getComputedStyle(control).display !== "none") faults.push(`${named(control)} has no name`);
}

const headings = document.querySelectorAll("h1").length;
if (headings !== 1) faults.push(`${headings} first headings`);
for (const image of document.images) {
  const beside = image.hasAttribute("alt") && image.closest("a, figure, .sphx-glr-thumbcontainer")?.textContent.trim();
  if (!image.alt.trim() && !beside) faults.push(`no text for ${image.src.split("/").pop()}`);
}
for (const image of document.images) if (image.complete && !image.naturalWidth) faults.push(`no picture ${image.src.split("/").pop()}`);
if (!document.documentElement.lang) faults.push("the page states no language");

const wide = document.documentElement.scrollWidth;
if (wide > arguments[0]) {
  const out = [...document.querySelectorAll("article *")].filter((each) => each.getBoundingClientRect().right > arguments[0] + 1);
  faults.push(`scrolls sideways to ${wide} px: ${out.slice(0, 3).map(named).join(", ")}`);
}
return faults;
