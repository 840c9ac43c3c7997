// Contrast by WCAG 2.2: of each visible text with what is behind it, and of the edges of what can be typed into.
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const known = new Map();
const rgba = (color) => {
  if (!known.has(color)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    known.set(color, [r, g, b, a / 255]);
  }
  return known.get(color);
};
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
const behind = (element) => {
  const layers = [];
  for (let each = element; each; each = each.parentElement) {
    const layer = rgba(getComputedStyle(each).backgroundColor);
    if (layer[3] > 0) layers.push(layer);
    if (layer[3] === 1) break;
  }
  return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
};
const luminance = (color) => {
  const [r, g, b] = color.slice(0, 3).map((each) => {
    const part = each / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (one, two) => {
  const [light, dark] = [luminance(one), luminance(two)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};
const texts = [];
const measure = (element, text, color) => {
  const style = getComputedStyle(element);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const back = behind(element);
  texts.push([text.slice(0, 60), ratio(over(rgba(color), back), back), large]);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const { textContent: text, parentElement: element } = walker.currentNode;
  if (!text.trim() || !element.checkVisibility({ visibilityProperty: true }) || element.closest("script, noscript, option")) continue;
  measure(element, text.trim(), getComputedStyle(element).color);
}
for (const input of document.querySelectorAll("input[placeholder]")) {
  if (input.placeholder && input.checkVisibility()) measure(input, input.placeholder, getComputedStyle(input, "::placeholder").color);
}
const edges = [...document.querySelectorAll(".ask-row, .choice-box, .inline input, .condition select, .condition .values input, .toggle-track")]
  .filter((each) => each.checkVisibility() && parseFloat(getComputedStyle(each).borderTopWidth) > 0)
  .map((each) => {
    const back = behind(each.parentElement);
    return [each.outerHTML.slice(0, 60), ratio(over(rgba(getComputedStyle(each).borderTopColor), back), back)];
  });
return { texts, edges };
