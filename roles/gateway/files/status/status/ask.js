/* Asks the gateway for Prometheus' answers. The questions have names; nginx knows their PromQL. */
import {keptKey} from './key.js';

const PATIENCE_MS = 10000;

/* Why there is no answer. `kind`: key, forbidden, busy, prometheus, gateway or other. */
export class Failure extends Error {
    constructor(kind, message) {
        super(message);
        this.kind = kind;
    }
}

const KINDS = {401: 'key', 403: 'forbidden', 429: 'busy', 502: 'prometheus'};

/* The `data` of Prometheus' answer to the question of this name. */
export async function ask(name) {
    const key = keptKey();
    if (/[^ -~]/.test(key)) { // it could not stand in a header
        throw new Failure('key', '');
    }
    const answer = await get(`/status/data/${name}`, key ? {Authorization: `Bearer ${key}`} : {});
    const told = await answer.json().catch(() => ({}));
    if (answer.ok && told.status === 'success') {
        return told.data;
    }
    const why = told.error && (told.error.message || told.error);
    throw new Failure(KINDS[answer.status] || 'other', why || `The gateway answers with status ${answer.status}.`);
}

/* Whether the service can serve just now. */
export async function isReady() {
    return (await get('/health', {})).ok;
}

async function get(path, headers) {
    try {
        return await fetch(path, {headers, cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS)});
    } catch {
        throw new Failure('gateway', 'The gateway does not answer.');
    }
}
