/* Makes rigs and cards of Prometheus' series. Knows nothing of the page. */

// What is one number for each backend, by metric, and for each of its cards.
const BACKEND_VALUES = {
    backend_quarantined: 'quarantined',
    backend_serves_other_model: 'servesOther',
    backend_slots: 'slots',
    backend_up: 'generates',
    llama_requests_processing: 'busy',
    'backend:llama_completion_tokens:rate5m': 'tokens',
};
const CARD_VALUES = {
    gpu_memory_total_bytes: 'memoryTotal',
    gpu_memory_used_bytes: 'memory',
    gpu_power_limit_watts: 'wattsLimit',
    gpu_power_watts: 'watts',
    gpu_temperature_celsius: 'celsius',
    gpu_up: 'answers',
};
const RIG_VALUES = {active_requests: 'active', inference_queue_depth: 'waiting'};
// Of gpu_throttled; a power cap is a setting and not a fault.
const FAULTS = {
    hw_slowdown: 'slowed down',
    hw_thermal: 'too hot',
    sw_thermal: 'too hot',
    hw_power_brake: 'short of power',
};
// As the alert HeartCodeCardHot: that near to the card's own limit, or that hot where it does not tell one.
const HOT_BELOW_LIMIT = 5;
const HOT = 90;
const STEP_S = 60;

// How a card is: the word that is shown, and how bad it is.
export const STATES = {
    works: ['good', 'works'],
    hot: ['warn', 'hot'],
    slowed: ['warn', 'slowed down'],
    silent: ['bad', 'does not answer'],
    gone: ['bad', 'gone'],
    failed: ['bad', 'generates nothing'],
    other: ['bad', 'serves another model'],
    unproxied: ['bad', 'proxy is down'],
    untried: ['none', 'not tested yet'],
    unknown: ['none', 'unknown'],
};

const inOrder = new Intl.Collator('en', {numeric: true}).compare;

/* The fleet, of the answers to the questions `now`, `scraped` and (while a rig is down) `known`. */
export function fleetOf(now, scraped, known) {
    const rigs = new Map();
    const samples = now.result;
    for (const {metric, value} of samples) {
        if (metric.__name__ === 'up' && metric.job === 'heartcode') {
            rigs.set(metric.rig, {
                name: metric.rig, isUp: value[1] === '1', cards: new Map(),
                hostIsUp: samples.some(({metric: m, value: v}) => m.__name__ === 'up' && m.job === 'node'
                    && m.host === metric.rig && v[1] === '1'),
            });
        }
    }
    const fleet = {rigs: [], firstToken: undefined, scrapedAgo: Infinity};
    for (const sample of samples) {
        const {metric, value} = sample;
        if (metric.__name__.startsWith('fleet:') && metric.quantile === '0.95') {
            fleet.firstToken = finite(value[1]);
        }
        const rig = rigs.get(metric.rig);
        if (rig && rig.isUp) {
            take(rig, sample);
        }
    }
    for (const sample of known ? known.result : []) {
        const rig = rigs.get(sample.metric.rig);
        if (rig && !rig.isUp) {
            take(rig, sample);
        }
    }
    for (const {value} of scraped.result) {
        fleet.scrapedAgo = Math.min(fleet.scrapedAgo, value[0] - Number(value[1]));
    }
    fleet.rigs = [...rigs.values()].sort((a, b) => inOrder(a.name, b.name));
    for (const rig of fleet.rigs) {
        rig.cards = [...rig.cards.values()].sort((a, b) => inOrder(a.backend, b.backend));
        for (const card of rig.cards) {
            gather(card);
            card.state = stateOf(card, rig);
            if (card.state === 'gone') {
                delete card.tokens; // the mean of five minutes, most of them before
            }
        }
    }
    return fleet;
}

function take(rig, {metric, value}) {
    const name = metric.__name__;
    const number = finite(value[1]);
    if (name in RIG_VALUES) {
        rig[RIG_VALUES[name]] = number;
    }
    if (name === 'heartcode_build_info') {
        rig.version = metric.version;
    }
    if (!metric.backend) {
        return;
    }
    if (!rig.cards.has(metric.backend)) {
        rig.cards.set(metric.backend, {rig: rig.name, backend: metric.backend, parts: new Map()});
    }
    const card = rig.cards.get(metric.backend);
    if (name in BACKEND_VALUES) {
        card[BACKEND_VALUES[name]] = number;
    } else if (name === 'llama_build_info') {
        card.build = metric.version;
    } else if (name === 'backend_info') {
        card.model = metric.model;
    } else if (metric.gpu !== undefined) {
        if (!card.parts.has(metric.uuid)) {
            card.parts.set(metric.uuid, {gpu: metric.gpu, uuid: metric.uuid, faults: []});
        }
        takeOfCard(card.parts.get(metric.uuid), name, metric, number);
    }
}

function takeOfCard(part, name, metric, number) {
    if (name in CARD_VALUES) {
        part[CARD_VALUES[name]] = number;
    } else if (name === 'gpu_info') {
        part.product = metric.name.replace(/^NVIDIA /, '');
    } else if (name === 'gpu_temperature_limit_celsius' && metric.limit === 'slowdown') {
        part.celsiusLimit = number;
    } else if (name === 'gpu_throttled' && number === 1 && metric.reason in FAULTS) {
        part.faults.push(FAULTS[metric.reason]);
    }
}

/* Makes one card of a backend's cards: sums, the hottest, the fullest, and which of them are gone. */
function gather(card) {
    const parts = [...card.parts.values()].sort((a, b) => inOrder(a.gpu, b.gpu));
    card.count = Math.max(1, parts.length);
    if (parts.length) {
        card.gpu = parts.length === 1 ? parts[0].gpu : `${parts[0].gpu} to ${parts[parts.length - 1].gpu}`;
        card.uuid = parts.map(({uuid}) => uuid).join('+');
    }
    const products = new Map();
    for (const {product} of parts.filter((part) => part.product !== undefined)) {
        products.set(product, (products.get(product) || 0) + 1);
    }
    card.product = [...products].map(([name, times]) => times > 1 ? `${times} × ${name}` : name).join(' + ') || undefined;
    for (const field of ['memory', 'memoryTotal', 'watts', 'wattsLimit']) {
        card[field] = sum(parts, field);
    }
    const known = parts.filter(({celsius}) => celsius !== undefined);
    const hottest = known.find(isHot) || known.sort((a, b) => b.celsius - a.celsius)[0] || {};
    card.celsius = hottest.celsius;
    card.celsiusLimit = hottest.celsiusLimit;
    card.fullest = Math.max(...parts.map((part) => part.memory / part.memoryTotal).filter(Number.isFinite));
    card.faults = parts.flatMap(({faults}) => faults);
    card.answers = parts.some(({answers}) => answers === 0) ? 0 : (parts[0] || {}).answers;
    card.lost = parts.filter(({answers, celsius}) => answers === 0 && celsius === undefined).map(({gpu}) => gpu);
}

function stateOf(card, rig) {
    if (!rig.isUp) {
        return 'unknown';
    }
    if (card.quarantined === 1 || card.lost.length) {
        return 'gone';
    }
    if (card.answers === 0) {
        return 'silent';
    }
    if (card.generates === undefined) {
        return card.slots === undefined ? 'unproxied' : 'untried';
    }
    if (card.generates === 0) {
        return 'failed';
    }
    if (card.servesOther === 1) {
        return 'other';
    }
    return card.faults.length ? 'slowed' : isHot(card) ? 'hot' : 'works';
}

export function isHot(card) {
    return card.celsius >= (card.celsiusLimit === undefined ? HOT : card.celsiusLimit - HOT_BELOW_LIMIT);
}

/* What a person calls it. */
export function titleOf(card) {
    return card.gpu === undefined ? `backend ${card.backend.split(':').pop()}`
        : `${card.count > 1 ? 'cards' : 'card'} ${card.gpu}`;
}

/* The word for how it is; of several cards, which are gone. */
export function wordOf(card) {
    return card.state === 'gone' && card.count > 1 && card.lost.length ? `${card.lost.join(', ')} gone`
        : STATES[card.state][1];
}

/* How many cards these are: a backend may have several. */
export function countOf(cards) {
    return cards.reduce((all, card) => all + card.count, 0);
}

export function isBad(card) {
    return STATES[card.state][0] === 'bad';
}

/* The sum of a value over the cards that tell it, undefined where none does. */
export function sum(cards, field) {
    const told = cards.map((card) => card[field]).filter((value) => value !== undefined);
    return told.length ? told.reduce((a, b) => a + b, 0) : undefined;
}

/* The last hour of the answer to `hour`: times, tokens/s by card, and the fleet's tokens/s and watts. */
export function hourOf(hour) {
    const last = Math.max(0, ...hour.result.map(({values}) => values[values.length - 1][0]));
    const times = Array.from({length: 61}, (_, n) => last + (n - 60) * STEP_S);
    const place = new Map(times.map((time, n) => [time, n]));
    const made = {times, cards: new Map(), tokens: times.map(() => null), watts: times.map(() => null)};
    for (const {metric, values} of hour.result) {
        const isCard = metric.__name__.startsWith('backend:');
        const own = times.map(() => null);
        const all = isCard ? made.tokens : made.watts;
        for (const [time, value] of values) {
            const n = place.get(time);
            const number = finite(value);
            if (n !== undefined && number !== undefined) {
                own[n] = number;
                all[n] = (all[n] || 0) + number;
            }
        }
        if (isCard) {
            made.cards.set(`${metric.rig} ${metric.backend}`, own);
        }
    }
    return made;
}

/* Alerts as they are shown: those that fire first, the worst before the others. */
export function alertsOf({alerts}) {
    const weight = (alert) => (alert.state === 'firing' ? 0 : 2) + (alert.labels.severity === 'critical' ? 0 : 1);
    return alerts.map((alert) => ({
        state: alert.state,
        name: alert.labels.alertname,
        severity: alert.labels.severity || 'warning',
        summary: alert.annotations.summary || alert.labels.alertname,
        description: alert.annotations.description || '',
        runbook: alert.annotations.runbook_url || '',
        since: new Date(alert.activeAt),
        id: JSON.stringify(alert.labels),
        weight: weight(alert),
    })).sort((a, b) => a.weight - b.weight || a.since - b.since);
}

function finite(text) {
    const number = Number(text);
    return Number.isFinite(number) ? number : undefined;
}
