/* How the gateway knows a client (ADR 18) and finds a rig for its request (ADR 17).
 *
 * nginx calls the exported functions; what it knows of the fleet is in fleet.js, of the clients in
 * clients.js, which the role writes beside this file. It runs in njs 0.7.9 (Debian 12) as well: no for-of, no destructuring.
 */
import crypto from 'crypto';
import body from 'body.js';
import clients from 'clients.js';
import fleet from 'fleet.js';

// nginx has asked all rigs by then, or as many as a walk may; once more, as the only one may just have been restarted,
// and others than before, as those that failed are marked.
const MAX_FAILURES = 3;
const RETRY_AFTER_S = '5';
// What the groups of rigs are called that are asked through the relay.
const KEPT = '_kept';

// Characters; what is longer is no key of ours.
const LONGEST_KEY = 300;

// What a rig's codes say; its bodies cannot be read here.
const MESSAGES = {
    backend_failed: 'the backend failed',
    backend_unavailable: 'no backend is ready',
    draining: 'the rigs are draining',
    no_slot: 'no slot available',
    queue_timeout: 'no slot became free in time',
    request_timeout: 'the request took too long',
    rig_timeout: 'the rig said nothing for too long',
    restarting: 'the rig is restarting',
};

// As the rigs' proxy writes them for Anthropic's messages (errors.py).
const ANTHROPIC_TYPES = {
    401: 'authentication_error',
    403: 'permission_error',
    404: 'not_found_error',
    413: 'request_too_large',
    429: 'rate_limit_error',
    503: 'overloaded_error',
    504: 'timeout_error',
};

/* The name of the client whose key was sent, '' without a valid one. */
function clientName(r) {
    const client = sender(r.headersIn);
    return client && !isExpired(client) ? client.name : '';
}

/* Why nobody is known, as an error. */
function refusal(r) {
    const client = sender(r.headersIn);
    const message = client ? `This API key expired on ${client.expired_on}.`
        : sentKey(r.headersIn) ? 'This API key is not valid here.'
        : 'An API key is needed: send it in the header "Authorization: Bearer KEY" or "x-api-key: KEY".';
    return errorText(r, 401, 'invalid_api_key', message);
}

/* Which of the limits was reached, as an error. */
function excess(r) {
    const client = sender(r.headersIn);
    const again = `try again in ${retryAfter(r)} s`;
    let message = `too many requests without a valid API key come from this address; ${again}`;
    if (r.variables.limit_conn_status === 'REJECTED') {
        message = `${client.parallel} requests with this API key are being worked on, and it may have no`
            + ` more at a time; ${again}`;
    } else if (client && !isExpired(client)) {
        message = `this API key may make ${client.requests_per_minute} requests per minute; ${again}`;
    }
    return errorText(r, 429, 'rate_limit_exceeded', message);
}

/* Seconds after which the limit that was reached lets one more request pass. */
function retryAfter(r) {
    if (r.variables.limit_conn_status === 'REJECTED') {
        return RETRY_AFTER_S;
    }
    const client = sender(r.headersIn);
    const rate = client && !isExpired(client) ? client.requests_per_minute : clients.strangers_per_minute;
    return String(Math.ceil(60 / rate));
}

/* The client whose key was sent, expired or not, else undefined. */
function sender(headers) {
    const key = sentKey(headers);
    return key && key.length <= LONGEST_KEY
        ? clients.by_hash[hashed(key)] : undefined;
}

/* SillyTavern sends "Bearer " without a key: that is none. */
function sentKey(headers) {
    const bearer = /^Bearer +(.+)$/i.exec(headers.Authorization || '');
    return bearer ? bearer[1] : headers['X-Api-Key'] || '';
}

function isExpired(client) {
    return client.expires !== null && Date.now() >= client.expires;
}

/* The models that a request's client may use; without keys everybody may use all. */
function allowedTo(r) {
    const client = clients.needed ? sender(r.headersIn) : undefined;
    return client && client.models
        ? fleet.models.filter((model) => client.models.includes(model.id)) : fleet.models;
}

/* Give a request to a rig that serves its model: the conversation's own, if that has a free slot. The gateway's relay
 * is between them, where there is one: it keeps what the client gets, so that another rig can go on with it (ADR 29). */
function route(r) {
    r.variables.heartcode_way = fleet.kept ? KEPT : '';
    convert(r);
}

/* The same for what takes no slot and is answered at once: there is nothing to keep. */
function convert(r) {
    if (r.method !== 'POST') {
        return wrongMethod(r, 'POST');
    }
    // In a file that nobody can open is one in very many chunks, whose frames have filled nginx's buffer.
    const told = r.variables.request_body_file ? body.UNREAD : body.read(r.requestBuffer || Buffer.from(''));
    if (told.error) {
        return answer(r, 400, 'invalid_json', told.error);
    }
    const key = conversation(r.headersIn['X-Session-Id'], told);
    if (told.is_whole) {
        return send(r, told.model, key);
    }
    if (fleet.models.length === 1) { // the rig looks whether it is the one that is meant
        return send(r, undefined, key);
    }
    r.variables.heartcode_key = hashed(key);
    r.variables.heartcode_stage = 'read';
    r.internalRedirect('@read');
}

/* Go on with a request that a rig has read. */
function wasRead(r) {
    const v = r.variables;
    if (v.upstream_http_x_heartcode_cache_key && !r.headersIn['X-Session-Id']) {
        v.heartcode_key = hashed('cache key\n' + v.upstream_http_x_heartcode_cache_key);
    }
    const asked = v.upstream_http_x_heartcode_model;
    give(r, asked === undefined ? undefined : JSON.parse(decodeURIComponent(asked)));
}

/* Give a question about a model (`?model=`) to any rig that serves it. */
function ask(r) {
    if (r.method !== 'GET' && r.method !== 'HEAD') {
        return wrongMethod(r, 'GET, HEAD');
    }
    send(r, r.args.model, '');
}

function send(r, name, key) {
    r.variables.heartcode_key = key && hashed(key);
    give(r, name);
}

/* Begin with the first stage, if there is such a model and the client may use it. */
function give(r, name) {
    const allowed = allowedTo(r);
    const model = find(name, allowed[0]);
    if (!model) {
        const shown = String(JSON.stringify(name)).slice(0, 200);
        return answer(r, 404, 'model_not_found', `The model ${shown} does not exist.`, 'model');
    }
    if (!allowed.includes(model)) {
        return forbidden(r, model);
    }
    r.variables.heartcode_model = model.id;
    r.variables.heartcode_group = model.group + (r.variables.heartcode_way || '');
    r.variables.heartcode_stage = 'slot';
    r.internalRedirect('@slot');
}

/* Decide how a request goes on that no rig has answered: nginx comes here with every 403, 404, 502, 503 and 504.
 * Within a stage nginx itself has asked one rig after the other, unless one took all the time there is. */
function next(r) {
    const v = r.variables;
    const statuses = ofThisStage(v.upstream_status);
    const last = lastBut404(statuses);
    const told = v.upstream_http_x_heartcode_error;
    if (last < 0) {
        return unknown(r, told);
    }
    const status = statuses[last];
    const isConnected = ofThisStage(v.upstream_connect_time)[last] !== '-';
    const nobodyAsked = ofThisStage(v.upstream_addr)[last].startsWith('heartcode_');
    const failed = !nobodyAsked && (status === '502' || status === '504');
    // It is the very last one's, or the one's before where there was nobody left.
    const code = last === statuses.length - 1 && told !== 'model_not_found' ? told : undefined;
    const isBusy = statuses.includes('403');

    if (code === 'body_read') {
        return wasRead(r);
    }
    if (v.heartcode_way && failed && !isConnected) {
        return withoutRelay(r); // it is on this host: that nobody accepts a connection says that it is off
    }
    // The rig gave the request up, or has worked on it for longer than it may: another one would too.
    if (failed && status === '504' && (code || isConnected)) {
        return lost(r, 504, code || 'rig_timeout');
    }
    // Where one is only busy it is waited for, whatever the others are.
    if (failed && !isBusy && (!code || statuses.length >= fleet.rigs_asked && fleet.rigs.length > fleet.rigs_asked)) {
        v.heartcode_failures = String(Number(v.heartcode_failures || 0) + 1);
        if (Number(v.heartcode_failures) >= MAX_FAILURES) {
            return lost(r, Number(status), code || 'rig_failed');
        }
        return r.internalRedirect('@' + v.heartcode_stage);
    }
    if (v.heartcode_stage === 'slot' && (isBusy || !failed)) {
        v.heartcode_stage = 'queue';
        return r.internalRedirect('@queue');
    }
    if (isBusy && code === 'no_slot') { // what /slots?fail_on_no_slot=1 asks for
        return lost(r, 503, code);
    }
    if (isBusy) {
        const seconds = v.upstream_http_retry_after || RETRY_AFTER_S;
        r.headersOut['Retry-After'] = seconds;
        return answer(r, 429, 'queue_full',
                      `all slots are busy and all queues are full; try again in ${seconds} s`);
    }
    if (failed) {
        return lost(r, 502, code);
    }
    // All are marked as failed, and for all that this request has seen the reason may be the relay.
    if (v.heartcode_way && nobodyAsked && !/[0-9]/.test(v.upstream_connect_time)) {
        return withoutRelay(r);
    }
    r.headersOut['Retry-After'] = RETRY_AFTER_S;
    lost(r, 503, code || 'rig_unavailable');
}

/* The last rig of a stage that knows what it was asked for; -1 where none does. In an update one rig after the other
 * gets a model's new name, and the gateway comes last: until then the old one is served where it still is. */
function lastBut404(statuses) {
    let last = statuses.length - 1;
    while (last >= 0 && statuses[last] === '404') {
        last -= 1;
    }
    return last;
}

function unknown(r, code) {
    if (code === 'model_not_found') {
        return answer(r, 404, code, 'The model that this request names does not exist.', 'model');
    }
    answer(r, 404, code || 'not_found', 'the rigs have nothing at this path');
}

/* Ask the rigs themselves. A stream that begins so ends with its rig. */
function withoutRelay(r) {
    const v = r.variables;
    v.heartcode_group = v.heartcode_group.slice(0, -v.heartcode_way.length);
    v.heartcode_way = '';
    v.heartcode_stage = 'slot';
    r.internalRedirect('@slot');
}

function lost(r, status, code) {
    answer(r, status, code, MESSAGES[code] || (status === 503 ? 'no rig is ready' : 'the rig failed'));
}

function forbidden(r, model) {
    answer(r, 403, 'model_not_allowed',
           `This API key may not use the model ${JSON.stringify(model.id)}.`, 'model');
}

/* List the models that the client may use, or show one of them by any of its names. */
function models(r) {
    if (r.method !== 'GET' && r.method !== 'HEAD') {
        return wrongMethod(r, 'GET, HEAD');
    }
    const allowed = allowedTo(r);
    const name = r.uri.replace(/^(\/v1)?\/models\/?/, '');
    if (!name) {
        return reply(r, 200, json({object: 'list', data: allowed.map(shown)}));
    }
    const model = named(name);
    if (!model) {
        return answer(r, 404, 'model_not_found',
                      `The model ${JSON.stringify(name)} does not exist.`, 'model');
    }
    if (!allowed.includes(model)) {
        return forbidden(r, model);
    }
    reply(r, 200, json(shown(model)));
}

function shown(model) {
    return {
        id: model.id,
        aliases: model.aliases,
        object: 'model',
        created: 0, // required by OpenAI's schema; the file's age says nothing
        owned_by: 'heartcode',
    };
}

/* Every rig and card as it is now, asked of the rigs themselves (ADR 22); as lines for a shell with ?format=text. */
function state(r) {
    if (r.method !== 'GET') {
        return wrongMethod(r, 'GET');
    }
    const form = r.args.format || 'json';
    if (form !== 'json' && form !== 'text') {
        return answer(r, 400, 'bad_request', 'format must be json or text', 'format');
    }
    Promise.all(fleet.rigs.map((name, number) => r.subrequest('/.heartcode/rig/' + number))).then((told) => {
        const rigs = told.map((each, number) => rigOf(fleet.rigs[number], each.status, each.responseText));
        if (form === 'json') {
            return reply(r, 200, json({rigs: rigs}));
        }
        r.headersOut['Content-Type'] = 'text/plain; charset=utf-8';
        end(r, 200, rows(rigs));
    });
}

/* What a rig has told of itself, under the name that the gateway knows it by. */
function rigOf(name, status, body) {
    let told;
    try {
        told = status === 200 ? JSON.parse(body).rigs[0] : undefined;
    } catch (error) {
        told = undefined;
    }
    if (!told || !Array.isArray(told.backends)) { // 404: its proxy is older than this question
        const state = status === 502 || status === 504 ? 'unreachable' : 'unknown';
        return {name: name, version: '-', state: state, backends: []};
    }
    return {name: name, version: told.version || '-', state: told.state, backends: told.backends};
}

/* As the rigs' proxy writes them (endpoints/fleet.py). */
function rows(rigs) {
    const fields = ['number', 'backend', 'model', 'state', 'busy', 'slots'];
    return rigs.map((rig) => (rig.backends.length ? rig.backends : [{}]).map((backend) =>
        [rig.name, rig.state].concat(fields.map((field) => field in backend ? backend[field] : '-')).join('\t')
            + '\n').join('')).join('');
}

/* The model for a request's `model`, as the rigs' proxy understands it (routing/model_registry.py). */
function find(name, byDefault) {
    const model = named(name);
    if (model) {
        return model;
    }
    const isEmpty = !name || (typeof name === 'object' && Object.keys(name).length === 0);
    return isEmpty || name === 'undefined' ? byDefault : null;
}

function named(name) {
    return typeof name === 'string' && fleet.models.find(
        (model) => model.id === name || model.aliases.includes(name));
}

/* What a conversation is known by: the session's name, its cache key, or how it begins. */
function conversation(session, told) {
    if (session) {
        return 'session\n' + session;
    }
    if (typeof told.cache_key === 'string' && told.cache_key) {
        return 'cache key\n' + hashed(told.cache_key); // as a rig tells it
    }
    return told.opening;
}

function hashed(text) {
    return crypto.createHash('sha256').update(text).digest('hex');
}

/* $upstream_status and its like: ", " between rigs, " : " between stages. */
function ofThisStage(list) {
    return String(list).split(' : ').pop().split(', ');
}

function wrongMethod(r, allowed) {
    r.headersOut.Allow = allowed;
    answer(r, 405, 'method_not_allowed', `use ${allowed} here`);
}

function answer(r, status, code, message, param) {
    reply(r, status, errorText(r, status, code, message, param));
}

/* An error as text, in OpenAI's shape, or in Anthropic's where that is what was asked for. */
function errorText(r, status, code, message, param) {
    const type = status < 500 ? 'invalid_request_error' : 'server_error';
    if (r.variables.heartcode_dialect !== 'anthropic') {
        return json({error: {message: message, type: type, param: param || null, code: code}});
    }
    return json({
        type: 'error',
        error: {
            type: ANTHROPIC_TYPES[status] || (status < 500 ? type : 'api_error'),
            message: message,
            details: {error_code: code, param: param || null},
        },
        request_id: r.variables.heartcode_request_id,
    });
}

function reply(r, status, body) {
    r.headersOut['Content-Type'] = 'application/json';
    end(r, status, body);
}

/* Answer. njs throws where the client has left meanwhile, and the log would call that an exception. */
function end(r, status, body) {
    try {
        r.return(status, body);
    } catch (error) {
        r.log('nobody is left for an answer');
    }
}

function json(value) {
    return JSON.stringify(value) + '\n';
}

export default {
    clientName, refusal, excess, retryAfter, route, convert, ask, next, models, state, conversation, find, rigOf, rows,
    errorText,
};
