// Elements without markup in strings: what engines and clients are called can never become part of the page.

export const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (`class`, `aria-…`, `onclick`; false and null are left out) and children. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Put a text in an element, unless it is there: what has not changed is not read out again. */
export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** One child for each item, in their order; those that were there before stay, so that the focus does. */
export function keyed(parent, items, key, make, update) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const name = String(key(item));
    const child = there.get(name) ?? make(item);
    child.dataset.key = name;
    update(child, item);
    return child;
  });
  const kept = new Set(wanted);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  wanted.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
}

/** Width or height as a share of the parent, by the object model: the page allows no inline styles. */
export function share(element, property, value) {
  element.style.setProperty(property, `${Math.round(1000 * Math.min(1, Math.max(0, value))) / 10}%`);
}
