/* Looks after the page: asks every few seconds while somebody looks, and says when nobody answers. */
import {Failure, ask, isReady} from './ask.js';
import {STATES, alertsOf, countOf, fleetOf, hourOf, titleOf, wordOf} from './fleet.js';
import {forgetKey, keepKey, keptKey} from './key.js';
import {clock, count, span} from './texts.js';
import {idOf, showAlerts, showFleet, showHour, showRigs} from './view.js';

const EVERY_S = 10;
const HOUR_EVERY_S = 60;
// Prometheus scrapes every 15 s, unless it is told otherwise.
const OLD_S = 120;

const byId = (id) => document.getElementById(id);

const seen = {at: undefined, ago: 0, hourAt: -Infinity, hour: undefined, known: undefined, down: '', states: undefined};
let timer;
let isPaused = false;
let isAsking = false;

const now = () => performance.now() / 1000;

async function refresh() {
    clearTimeout(timer);
    if (isAsking || document.hidden || isPaused) {
        return;
    }
    isAsking = true;
    try {
        await look();
        hideTrouble();
    } catch (failure) {
        if (!(failure instanceof Failure)) {
            showTrouble('Something went wrong on this page. Reload it.');
            throw failure;
        }
        fail(failure);
    } finally {
        isAsking = false;
        tell();
        if (byId('key-form').hidden) {
            timer = setTimeout(refresh, EVERY_S * 1000);
        }
    }
}

async function look() {
    // Alone, since it may be refused: each refusal is counted for this address.
    const scraped = await ask('scraped');
    const [current, alerts, ready] = await Promise.all([ask('now'), ask('alerts'), isReady()]);
    let fleet = fleetOf(current, scraped);
    const down = fleet.rigs.filter((rig) => !rig.isUp).map((rig) => rig.name).join(' ');
    if (down) {
        // What the cards of a rig without power were stays the same.
        if (down !== seen.down) {
            seen.known = await ask('known');
        }
        fleet = fleetOf(current, scraped, seen.known);
    }
    seen.down = down;
    if (now() - seen.hourAt >= HOUR_EVERY_S) {
        seen.hour = hourOf(await ask('hour'));
        seen.hourAt = now();
    }
    seen.at = now();
    seen.ago = fleet.scrapedAgo;
    show(fleet, alertsOf(alerts), ready);
}

function show(fleet, alerts, ready) {
    byId('key-form').hidden = true;
    byId('shown').hidden = false;
    byId('pause').hidden = false;
    byId('forget').hidden = !keptKey();
    const verdict = verdictOf(fleet, ready);
    showFleet(fleet, verdict);
    showAlerts(alerts, new Date());
    showRigs(fleet, downSince(alerts));
    showHour(seen.hour, fleet);
    announce(fleet);
    document.title = `${verdict.text} – HeartCode status`;
}

/* What is most important, as a sentence, and a line for each part that is not as it should be. */
function verdictOf(fleet, ready) {
    const cards = fleet.rigs.flatMap((rig) => rig.cards);
    const working = countOf(cards.filter((card) => ['good', 'warn'].includes(STATES[card.state][0])));
    const all = countOf(cards);
    const troubles = fleet.rigs.flatMap((rig) => rig.isUp ? rig.cards
        .filter((card) => STATES[card.state][0] !== 'good')
        .map((card) => ({id: idOf(rig.name, card.backend), text: `${rig.name}, ${titleOf(card)}: ${wordOf(card)}`}))
        : [{id: idOf(rig.name), text: `${rig.name} does not answer`}]);
    if (!fleet.rigs.length) {
        return {state: 'none', text: 'Prometheus knows no rigs', troubles};
    }
    if (!ready) {
        return {state: 'bad', text: 'The fleet is not serving requests', troubles};
    }
    const isWhole = working === all && !seen.down;
    return {
        state: !isWhole ? 'warn' : troubles.length ? 'warn' : 'good', troubles,
        text: isWhole ? all === 1 ? 'The card works' : `All ${all} cards work`
            : `${working} of ${count(all, 'card')} ${working === 1 ? 'works' : 'work'}`,
    };
}

function downSince(alerts) {
    return new Map(alerts.filter(({name}) => name === 'HeartCodeRigDown')
        .map((alert) => [JSON.parse(alert.id).rig, alert.since]));
}

/* Says to screen readers what has changed since the last time. */
function announce(fleet) {
    const states = new Map();
    for (const rig of fleet.rigs) {
        states.set(rig.name, rig.isUp ? 'answers' : 'does not answer');
        for (const card of rig.isUp ? rig.cards : []) {
            states.set(`${rig.name}, ${titleOf(card)}:`, wordOf(card));
        }
    }
    const changes = [...states].filter(([name, state]) => seen.states && (seen.states.get(name) || state) !== state);
    if (changes.length) {
        byId('changes').textContent = `${changes.map(([name, state]) => `${name} ${state}`).join('; ')}.`;
    }
    seen.states = states;
}

// --- When there is no answer

const WORDS = {
    prometheus: 'Prometheus on the gateway does not answer.',
    gateway: 'The gateway does not answer.',
    forbidden: 'Your network may not see this page (gateway_status_allow says which may).',
    busy: 'Too many wrong API keys have come from your address.',
};

function fail(failure) {
    if (failure.kind === 'key') {
        askForKey();
        return;
    }
    showTrouble(WORDS[failure.kind] || failure.message);
}

function askForKey() {
    const hadKey = Boolean(keptKey());
    forgetKey();
    byId('shown').hidden = true;
    byId('pause').hidden = true;
    byId('forget').hidden = true;
    byId('key-form').hidden = false;
    document.title = 'HeartCode status';
    seen.at = undefined;
    if (hadKey) {
        showTrouble('This API key is not valid. Check it and try again.');
    } else {
        hideTrouble();
    }
}

function showTrouble(text) {
    const again = byId('key-form').hidden ? ` Trying again every ${EVERY_S} s.` : '';
    byId('trouble').hidden = false;
    if (byId('trouble').textContent !== text + again) {
        byId('trouble').textContent = text + again;
    }
    byId('shown').classList.toggle('old', true);
}

function hideTrouble() {
    byId('trouble').hidden = true;
    byId('trouble').textContent = '';
    byId('shown').classList.toggle('old', false);
}

/* How old the values are, each second. */
function tell() {
    if (seen.at === undefined) {
        byId('freshness').textContent = '';
        return;
    }
    const age = seen.ago + now() - seen.at;
    const old = age > OLD_S || !byId('trouble').hidden;
    const what = isPaused ? 'Paused, as of' : old ? 'Outdated, as of' : 'As of';
    byId('freshness').textContent = Number.isFinite(age)
        ? `${what} ${clock(new Date(Date.now() - age * 1000))}, ${span(age)} ago` : '';
    byId('freshness').classList.toggle('is-old', old);
}

byId('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    keepKey(byId('key').value.trim());
    byId('key').value = '';
    refresh();
});
byId('forget').addEventListener('click', () => {
    forgetKey();
    refresh();
});
byId('pause').addEventListener('click', () => {
    isPaused = !isPaused;
    byId('pause').setAttribute('aria-pressed', String(isPaused));
    refresh();
});
document.addEventListener('visibilitychange', refresh);
setInterval(tell, 1000);
refresh();
