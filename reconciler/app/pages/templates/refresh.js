'use strict';
// Asks for this page again and puts its new content in place; what is open, in focus or selected stays.
const EVERY = 10000;
const asof = document.querySelector('#asof');
const skew = Date.now() / 1000 - Number(asof.dataset.now);
const status = document.querySelector('#problem');
let at = Number(asof.dataset.now), timer = 0;

function age() {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - skew - at));
  return seconds < 60 ? `${seconds} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}
function show() {
  asof.textContent = `${age()} old`;
}
function report(problem) {
  if (status.textContent !== problem) status.textContent = problem;
}
function label(part) { return part.id || part.getAttribute('href') || part.parentElement.id || part.textContent; }
function focusable(root) { return [...root.querySelectorAll('a, summary')]; }
function folds(root) {
  return [...root.querySelectorAll('details')].map((part, number) => [part, part.id || `${number}|${part.firstElementChild.textContent}`]);
}
function replace(next) {
  const main = document.querySelector('main');
  const open = new Set(folds(main).filter(([part]) => part.open).map(([, name]) => name));
  const active = main.contains(document.activeElement) ? label(document.activeElement) : null;
  const [left, top] = [scrollX, scrollY];
  for (const [part, name] of folds(next)) part.open = open.has(name);
  main.replaceChildren(...next.childNodes);
  if (active !== null) focusable(main).find(part => label(part) === active)?.focus({preventScroll: true});
  scrollTo(left, top);
}
async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await fetch(location.href, {cache: 'no-store', signal: AbortSignal.timeout(EVERY)});
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const next = page.querySelector('main'), now = page.querySelector('#asof');
    if (!answer.ok || !next || !now) {
      report(answer.status === 401 ? 'The session has ended; reload the page.' : `The daemon answers ${answer.status}; reload the page.`);
    } else if (getSelection().isCollapsed) {
      replace(next);
      document.title = page.title;
      at = Number(now.dataset.now);
      report('');
    }
  } catch {
    report('The daemon does not answer.');
  }
  show();
  timer = setTimeout(refresh, EVERY);
}
document.addEventListener('visibilitychange', () => document.hidden ? clearTimeout(timer) : refresh());
setInterval(show, 1000);
timer = setTimeout(refresh, EVERY);
show();
