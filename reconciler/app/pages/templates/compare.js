'use strict';
const form = document.querySelector('form');
const groups = [...document.querySelectorAll('section.group')].map(part => ({
  part, file: part.dataset.file, side: part.dataset.side,
  rows: [...part.querySelectorAll('tbody tr')].map(row => ({
    row, data: row.dataset, classes: row.dataset.classes.split(' '), fits: true,
    text: (part.dataset.file + ' ' + row.textContent).toLowerCase() })) }));
const total = groups.reduce((sum, group) => sum + group.rows.length, 0);
const count_shown = document.querySelector('#shown');
function belongs(chosen, { data, classes }) {
  return (chosen.class === 'all'
      || (chosen.class === 'unexplained' ? data.unexplained === 'yes' : classes.includes(chosen.class))
      || (chosen.class === 'not-same' && data.same === 'no'))
    && (!chosen.risk || data.risk === chosen.risk);
}
function apply() {
  const chosen = Object.fromEntries(new FormData(form));
  const words = chosen.search.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { part, file, side, rows } of groups) {
    const here = (!chosen.file || file === chosen.file) && (!chosen.side || side === chosen.side);
    let visible = 0;
    for (const line of rows) {
      line.fits = here && words.every(word => line.text.includes(word)) && belongs(chosen, line);
      visible += line.fits;
    }
    part.hidden = !visible;
    if (visible) for (const { row, fits } of rows) if (row.hidden === fits) row.hidden = !fits;
    count += visible;
  }
  count_shown.textContent = `${count} of ${total} lines`;
}
form.addEventListener('input', apply);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
apply();
