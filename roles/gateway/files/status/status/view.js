/* The page's elements. What has not changed is left alone, so that focus and screen readers stay where they are. */
import {Spark, most} from './spark.js';
import {STATES, countOf, isBad, isHot, sum, titleOf, wordOf} from './fleet.js';
import {NONE, clock, count, decimal, gib, rate, span} from './texts.js';

const byId = (id) => document.getElementById(id);
const SIGNS = {good: '✓', warn: '▲', bad: '✕', none: '?'};

function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
}

function say(element, text) {
    if (element.textContent !== text) {
        element.textContent = text;
    }
}

function mark(element, name, value) {
    if (element.getAttribute(name) !== value) {
        element.setAttribute(name, value);
    }
}

/* A word with a sign and a colour: none of them has to be seen for the others. */
function stateMark() {
    return make('span', {class: 'mark'}, make('span', {class: 'sign', 'aria-hidden': 'true'}), make('span'));
}

function setMark(element, kind, word) {
    mark(element, 'data-state', kind);
    say(element.firstChild, SIGNS[kind]);
    say(element.lastChild, word);
}

/* Keeps `parent`'s children in the order of `items`, one for each key. */
class List {
    constructor(parent, create, remove = () => {}) {
        this.parent = parent;
        this.create = create;
        this.remove = remove;
        this.parts = new Map();
    }

    show(items, keyOf, update) {
        const keys = items.map(keyOf);
        for (const [key, part] of this.parts) {
            if (!keys.includes(key)) {
                this.remove(part);
                part.element.remove();
                this.parts.delete(key);
            }
        }
        items.forEach((item, n) => {
            if (!this.parts.has(keys[n])) {
                this.parts.set(keys[n], this.create(item));
            }
            const part = this.parts.get(keys[n]);
            if (this.parent.children[n] !== part.element) {
                this.parent.insertBefore(part.element, this.parent.children[n] || null);
            }
            update(part, item);
        });
    }
}

// --- Alerts

function createAlert() {
    const element = make('li');
    const parts = {
        element, mark: stateMark(), summary: make('strong'), since: make('span', {class: 'quiet'}),
        description: make('p'), runbook: make('p', {class: 'runbook'}),
    };
    element.append(make('div', {class: 'alert-head'}, parts.mark, parts.summary, parts.since),
                   parts.description, parts.runbook);
    return parts;
}

const firing = new List(byId('alerts'), createAlert);
const pending = new List(byId('pending-alerts'), createAlert);

export function showAlerts(all, now) {
    const fire = all.filter(({state}) => state === 'firing');
    const wait = all.filter(({state}) => state === 'pending');
    byId('no-alerts').hidden = fire.length > 0;
    byId('alerts').hidden = fire.length === 0;
    byId('pending').hidden = wait.length === 0;
    say(byId('pending-count'), `${wait.length} pending: ${wait.length === 1 ? 'it fires' : 'they fire'} if this goes on`);
    for (const [list, some] of [[firing, fire], [pending, wait]]) {
        showThese(list, some, now);
    }
}

function showThese(list, some, now) {
    list.show(some, (alert) => alert.id, (part, alert) => {
        const fires = alert.state === 'firing';
        setMark(part.mark, !fires ? 'none' : alert.severity === 'critical' ? 'bad' : 'warn', alert.severity);
        mark(part.element, 'data-state', part.mark.dataset.state);
        say(part.summary, alert.summary);
        say(part.since, `for ${span((now - alert.since) / 1000)}`);
        say(part.description, alert.description);
        showRunbook(part.runbook, alert);
    });
}

function showRunbook(element, {name, runbook}) {
    if (element.dataset.of === runbook) {
        return;
    }
    element.dataset.of = runbook;
    element.hidden = !runbook;
    element.replaceChildren('What to do: ', /^https?:\/\//.test(runbook)
        ? make('a', {href: runbook}, `the runbook of ${name}`) : make('code', {}, runbook));
}

// --- The fleet as a whole

const FIGURES = [
    ['tokens', 'Tokens/s', 'spark'],
    ['watts', 'Power', 'spark'],
    ['slots', 'Slots in use'],
    ['waiting', 'Requests waiting'],
    ['firstToken', 'Time to first token (p95)'],
];
const figures = new Map(FIGURES.map(([name, label, spark]) => {
    const value = make('dd', {class: 'figure'});
    const chart = make('dd', {class: 'spark'});
    byId('figures').append(make('div', {}, make('dt', {}, label), value, ...(spark ? [chart] : [])));
    return [name, {value, chart}];
}));

const troubles = new List(byId('troubles'), () => {
    const link = make('a');
    return {element: make('li', {}, link), link};
});

export function showFleet(fleet, verdict) {
    const heading = byId('verdict');
    if (!heading.firstChild) {
        heading.append(...stateMark().childNodes);
    }
    setMark(heading, verdict.state, verdict.text);
    byId('troubles').hidden = verdict.troubles.length === 0;
    troubles.show(verdict.troubles, ({id}) => id, (part, {id, text}) => {
        mark(part.link, 'href', `#${id}`);
        say(part.link, text);
    });
    const up = fleet.rigs.filter((rig) => rig.isUp);
    const cards = up.flatMap((rig) => rig.cards);
    say(figures.get('tokens').value, rate(sum(cards, 'tokens')));
    say(figures.get('watts').value, decimal(sum(cards, 'watts'), 0, ' W'));
    say(figures.get('slots').value, slotsOf(sum(cards, 'busy'), sum(cards.filter((card) => !isBad(card)), 'slots')));
    say(figures.get('waiting').value, decimal(sum(up, 'waiting')));
    say(figures.get('firstToken').value, decimal(fleet.firstToken, 1, ' s'));
}

function slotsOf(busy, slots) {
    return busy === undefined || slots === undefined ? NONE : `${busy} of ${slots}`;
}

// --- Rigs and cards

// Name, heading, and what a phone shows before the value.
const COLUMNS = [
    ['card', 'Card'], ['how', 'State'], ['model', 'Model'], ['tokens', 'Tokens/s'], ['hour', 'Last hour'],
    ['slots', 'Slots'], ['celsius', 'Temp.'], ['memory', 'VRAM, GiB'], ['watts', 'Watts'],
];

const rigs = new List(byId('rigs'), (rig) => {
    const id = idOf(rig.name);
    const parts = {mark: stateMark(), facts: make('p', {class: 'facts'}), note: make('p', {class: 'note', hidden: ''})};
    const body = make('tbody', {role: 'rowgroup'});
    const headings = COLUMNS.map(([name, text]) => make(
        'th', {role: 'columnheader', scope: 'col', class: name}, text));
    parts.table = make('table', {role: 'table', 'aria-labelledby': id},
        make('thead', {role: 'rowgroup'}, make('tr', {role: 'row'}, ...headings)), body);
    parts.cards = new List(body, createCard, ({spark}) => spark.remove());
    parts.element = make('section', {class: 'rig', 'aria-labelledby': id},
        make('div', {class: 'rig-head'}, make('h2', {id, tabindex: '-1'}, rig.name), parts.mark, parts.facts),
        parts.note, parts.table);
    return parts;
}, (part) => part.cards.show([], () => ''));

function createCard(card) {
    const cells = {};
    for (const [name, text] of COLUMNS) {
        cells[name] = name === 'card' ? make('th', {role: 'rowheader', scope: 'row', class: name})
            : make('td', {role: 'cell', class: name, 'data-label': text});
    }
    const parts = {
        element: make('tr', {role: 'row', id: idOf(card.rig, card.backend), tabindex: '-1'}, ...Object.values(cells)),
        cells, mark: stateMark(), title: make('span'), product: make('span', {class: 'product'}),
        hourText: make('span', {class: 'unseen'}), chart: make('div', {class: 'spark'}), bars: {},
        slots: make('span', {class: 'pips', 'aria-hidden': 'true'}), slotsText: make('span'),
    };
    cells.card.append(parts.title, ' ', parts.product);
    cells.how.append(parts.mark);
    cells.hour.append(parts.chart, parts.hourText);
    cells.slots.append(parts.slotsText, parts.slots);
    for (const name of ['celsius', 'memory', 'watts']) {
        const value = make('span');
        const bar = make('span', {class: 'bar', 'aria-hidden': 'true'});
        cells[name].append(value, bar);
        parts.bars[name] = {value, bar};
    }
    return parts;
}

export function idOf(rig, backend = '') {
    return `rig-${rig}${backend && `-${backend}`}`.replace(/[^A-Za-z0-9_-]/g, '-');
}

export function showRigs(fleet, downSince) {
    rigs.show(fleet.rigs, (rig) => rig.name, (part, rig) => {
        const bad = rig.cards.filter(isBad);
        const kind = !rig.isUp || (bad.length && bad.length === rig.cards.length) ? 'bad'
            : rig.cards.some((card) => STATES[card.state][0] !== 'good') ? 'warn' : 'good';
        const working = countOf(rig.cards) - countOf(bad);
        setMark(part.mark, kind, !rig.isUp ? 'does not answer'
            : bad.length ? `${working} of ${count(countOf(rig.cards), 'card')} ${working === 1 ? 'works' : 'work'}` : 'works');
        mark(part.element, 'data-state', kind);
        say(part.facts, rig.isUp ? factsOf(rig) : downText(rig, downSince.get(rig.name)));
        part.note.hidden = rig.cards.length > 0;
        part.table.hidden = rig.cards.length === 0;
        say(part.note, rig.isUp ? 'It reports no cards.' : 'Its cards are unknown: it has not answered for a week.');
        part.cards.show(rig.cards, (card) => card.backend, updateCard);
    });
}

function factsOf(rig) {
    return [
        count(countOf(rig.cards), 'card'),
        rig.active !== undefined && count(rig.active, 'request'),
        rig.waiting > 0 && `${rig.waiting} waiting`,
        `${rate(sum(rig.cards, 'tokens'))} tokens/s`,
        sum(rig.cards, 'watts') !== undefined && decimal(sum(rig.cards, 'watts'), 0, ' W'),
        rig.version !== undefined && `HeartCode ${rig.version}`,
        buildsOf(rig.cards),
    ].filter(Boolean).join(' · ');
}

/* The versions of llama.cpp, of which a rig has several only while it is updated. */
function buildsOf(cards) {
    const builds = [...new Set(cards.map((card) => card.build).filter((build) => build !== undefined))];
    return builds.length > 0 && `llama.cpp ${builds.join(', ')}`;
}

function downText(rig, since) {
    const host = rig.hostIsUp ? 'the host is up, but its exporter does not run' : 'powered off, without network, or not booted';
    return `${since ? `since ${clock(since)}: ` : ''}${host}`;
}

function updateCard(part, card) {
    const {cells, bars} = part;
    const [kind] = STATES[card.state];
    mark(part.element, 'data-state', kind);
    setMark(part.mark, kind, card.state === 'slowed' ? card.faults[0] : wordOf(card));
    const title = titleOf(card);
    say(part.title, title[0].toUpperCase() + title.slice(1));
    say(part.product, card.product || '');
    mark(cells.card, 'title', card.uuid || card.backend);
    say(cells.model, card.model || NONE);
    say(cells.tokens, rate(card.tokens));
    const isServing = !isBad(card) && card.state !== 'unknown';
    say(part.slotsText, isServing ? slotsOf(card.busy, card.slots) : NONE);
    showPips(part.slots, isServing ? card : {});
    showBar(bars.celsius, decimal(card.celsius, 0, ' °C'), card.celsius / (card.celsiusLimit || 100), isHot(card));
    showBar(bars.memory, card.memory === undefined ? NONE : `${gib(card.memory)} of ${gib(card.memoryTotal)}`,
            card.memory / card.memoryTotal, card.fullest > 0.9905);
    showBar(bars.watts, card.wattsLimit === undefined ? decimal(card.watts, 0)
        : `${decimal(card.watts, 0)} of ${decimal(card.wattsLimit, 0)}`, card.watts / card.wattsLimit, false);
}

function showPips(element, {busy, slots}) {
    const pips = slots > 0 && slots <= 8 ? Array.from({length: slots}, (_, n) => (n < busy ? '■' : '□')).join('') : '';
    say(element, pips);
}

function showBar({value, bar}, text, share, isHigh) {
    say(value, text);
    bar.hidden = !Number.isFinite(share);
    bar.style.setProperty('--share', String(Math.min(1, share)));
    mark(bar, 'data-high', String(isHigh));
}

// --- The last hour

export function showHour(hour, fleet) {
    const top = Math.max(1, ...[...hour.cards.values()].map(most));
    for (const [name, values] of [['tokens', hour.tokens], ['watts', hour.watts]]) {
        const figure = figures.get(name);
        figure.spark = figure.spark || new Spark(figure.chart);
        figure.spark.show(hour.times, values, most(values) * 1.1);
    }
    for (const rig of fleet.rigs) {
        for (const card of rig.cards) {
            const part = rigs.parts.get(rig.name).cards.parts.get(card.backend);
            const values = hour.cards.get(`${card.rig} ${card.backend}`) || hour.times.map(() => null);
            part.spark = part.spark || new Spark(part.chart);
            // One scale for all, so that cards can be compared.
            part.spark.show(hour.times, values, top * 1.1);
            const told = values.filter((value) => value !== null);
            say(part.hourText, told.length
                ? `${rate(Math.min(...told))} to ${rate(Math.max(...told))} tokens per second` : 'no values');
        }
    }
}
