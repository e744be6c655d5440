// What all parts of the page use.

export const find = (id) => document.getElementById(id);

export function show(id, value) {
  const element = find(id);
  const words = String(value);
  if (element.textContent !== words) element.textContent = words;
}

const grouped = new Intl.NumberFormat('en');

export const count = (n) => grouped.format(Math.round(n));

/** 950, 12.3k, 4.6M: short enough for an axis. */
export function short(n) {
  if (n < 1_000) return String(Math.round(n));
  const [value, unit] = n < 1_000_000 ? [n / 1_000, 'k'] : [n / 1_000_000, 'M'];
  return (value < 100 ? value.toFixed(1).replace(/\.0$/, '') : value.toFixed(0)) + unit;
}

export function bytes(n) {
  if (n < 1024 ** 3) return (n / 1024 ** 2).toFixed(1) + ' MiB';
  return (n / 1024 ** 3).toFixed(1) + ' GiB';
}

/** All sequences together: what this page checked itself. */
export const checks = { items: 0, missing: 0, doubled: 0 };

/** Items that are numbered from 0, none missing and none twice. */
export class Sequence {
  #next = 0;

  see(n) {
    checks.items++;
    if (n < this.#next) {
      checks.doubled++;
      return;
    }
    checks.missing += n - this.#next;
    this.#next = n + 1;
  }
}
