/* How the gateway knows a client (ADR 18) and finds a rig for its request (ADR 17).
 *
 * nginx calls the exported functions; what it knows of the fleet is in fleet.js, of the clients in
 * clients.js, which the role writes beside this file. It runs in njs 0.7.9 (Debian 12) as well: no for-of, no destructuring.
 */
import crypto from 'crypto';
import clients from 'clients.js';
import fleet from 'fleet.js';

// A request that was there when three rigs failed is not given a fourth.
const MAX_FAILURES = 3;
const RETRY_AFTER_S = '5';

// Characters; what is longer is no key of ours.
const LONGEST_KEY = 300;

// njs parses JSON to a depth of 32, and all that is read here lies above this one.
const READ_DEPTH = 8;

// Characters of a text prompt that stand for its conversation.
const SHORTEST_BEGINNING = 64;
const LONGEST_BEGINNING = 1024;

// What a rig's codes say; its bodies cannot be read here.
const MESSAGES = {
    backend_failed: 'the backend failed',
    backend_unavailable: 'no backend is ready',
    draining: 'the rigs are draining',
    queue_timeout: 'no slot became free in time',
    request_timeout: 'the request took too long',
    restarting: 'the rig is restarting',
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
    return errorText(401, 'invalid_api_key', message);
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
    return errorText(429, 'rate_limit_exceeded', message);
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
        ? clients.by_hash[crypto.createHash('sha256').update(key).digest('hex')] : undefined;
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

/* Give a request to a rig that serves its model: the conversation's own, if that has a free slot. */
function route(r) {
    if (r.method !== 'POST') {
        return wrongMethod(r, 'POST');
    }
    let fields;
    try {
        fields = parse(r.requestText || '');
    } catch (error) {
        return answer(r, 400, 'invalid_json', 'the body is not valid JSON');
    }
    if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) {
        return answer(r, 400, 'invalid_json', 'the body is not a JSON object');
    }
    send(r, fields.model, conversation(r.headersIn['X-Session-Id'], fields));
}

/* Give a question about a model (`?model=`) to any rig that serves it. */
function ask(r) {
    if (r.method !== 'GET' && r.method !== 'HEAD') {
        return wrongMethod(r, 'GET, HEAD');
    }
    send(r, r.args.model, '');
}

function send(r, name, key) {
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
    r.variables.heartcode_group = model.group;
    r.variables.heartcode_key = key && crypto.createHash('sha256').update(key).digest('hex');
    r.variables.heartcode_stage = 'slot';
    r.internalRedirect('@slot');
}

/* Decide how a request goes on that no rig has answered: nginx comes here with every 403, 502, 503
 * and 504. Within a stage nginx itself has already asked one rig after the other. */
function next(r) {
    const v = r.variables;
    const statuses = ofThisStage(v.upstream_status);
    const status = statuses[statuses.length - 1];
    const nobodyAsked = ofThisStage(v.upstream_addr).pop().startsWith('heartcode_');
    const failed = !nobodyAsked && (status === '502' || status === '504');
    const code = v.upstream_http_x_heartcode_error;

    if (failed && status === '504' && code) { // the rig gave the request up; another would too
        return lost(r, 504, code);
    }
    if (failed) {
        v.heartcode_failures = String(Number(v.heartcode_failures || 0) + 1);
        if (Number(v.heartcode_failures) >= MAX_FAILURES) {
            return lost(r, Number(status), code || 'rig_failed');
        }
        return r.internalRedirect('@' + v.heartcode_stage);
    }
    if (v.heartcode_stage === 'slot') {
        v.heartcode_stage = 'queue';
        return r.internalRedirect('@queue');
    }
    if (statuses.includes('403')) {
        const seconds = v.upstream_http_retry_after || RETRY_AFTER_S;
        r.headersOut['Retry-After'] = seconds;
        return answer(r, 429, 'queue_full',
                      `all slots are busy and all queues are full; try again in ${seconds} s`);
    }
    r.headersOut['Retry-After'] = RETRY_AFTER_S;
    lost(r, 503, code || 'rig_unavailable');
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
        r.return(200, rows(rigs));
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
        return {name: name, state: status === 502 || status === 504 ? 'unreachable' : 'unknown', backends: []};
    }
    return {name: name, state: told.state, backends: told.backends};
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

/* What stays the same in a conversation from turn to turn. */
function conversation(session, fields) {
    if (session) {
        return 'session\n' + session;
    }
    if (typeof fields.prompt_cache_key === 'string' && fields.prompt_cache_key) {
        return 'cache key\n' + fields.prompt_cache_key;
    }
    const turns = [fields.messages, fields.input].find(isListOfTurns);
    if (turns) {
        return 'chat\n' + [fields.system, fields.instructions].map(text).join('\n') + opening(turns);
    }
    if (typeof fields.input === 'string') { // a chat's first turn, or a text to embed
        return 'chat\n' + [fields.system, fields.instructions].map(text).join('\n') + '\n' + fields.input;
    }
    const given = ['prompt', 'input_prefix', 'input', 'query', 'content'].find((name) => fields[name]);
    return 'text\n' + (given ? beginning(text(fields[given])) : '');
}

function isListOfTurns(value) {
    return Array.isArray(value) && value.length > 0 && typeof value[0] === 'object' && value[0] !== null;
}

/* The system's words and the first user's. */
function opening(turns) {
    let said = '';
    turns.some((turn) => {
        const role = turn && turn.role;
        if (role === 'user') {
            said += '\n' + text(turn.content);
            return true;
        }
        if (role === 'system' || role === 'developer') {
            said += '\n' + text(turn.content);
        }
        return false;
    });
    return said || text(turns[0]);
}

/* The text of a content: a string, or parts. Marks such as cache_control move from turn to turn. */
function text(content) {
    if (typeof content === 'string') {
        return content;
    }
    if (isListOfTurns(content)) {
        return content.map((part) => part && typeof part.text === 'string' ? part.text
            : JSON.stringify(part)).join('');
    }
    return content === undefined || content === null ? '' : JSON.stringify(content);
}

/* A prompt grows with each turn: its beginning stays the same until it is twice as long. */
function beginning(prompt) {
    let length = SHORTEST_BEGINNING;
    while (length < LONGEST_BEGINNING && length * 2 <= prompt.length) {
        length *= 2;
    }
    return prompt.slice(0, length);
}

function parse(body) {
    const json = body.replace(/^\uFEFF/, ''); // llama-server skips a byte order mark
    try {
        return JSON.parse(json);
    } catch (error) {
        return JSON.parse(shallow(json));
    }
}

/* The JSON with null for whatever lies too deep to be parsed; the rig looks at the whole. */
function shallow(json) {
    const mark = /["\\{}[\]]/g;
    let kept = '', from = 0, depth = 0, inString = false, found;
    while ((found = mark.exec(json)) !== null) {
        const char = found[0];
        if (char === '\\') {
            mark.lastIndex += 1;
        } else if (char === '"') {
            inString = !inString;
        } else if (inString) {
            continue;
        } else if (char === '{' || char === '[') {
            depth += 1;
            if (depth === READ_DEPTH + 1) {
                kept += json.slice(from, found.index) + 'null';
            }
        } else {
            if (depth === READ_DEPTH + 1) {
                from = mark.lastIndex;
            }
            depth -= 1;
        }
    }
    if (depth !== 0 || inString) {
        throw new SyntaxError('unbalanced');
    }
    return kept + json.slice(from);
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
    reply(r, status, errorText(status, code, message, param));
}

/* An error in OpenAI's shape, as text. */
function errorText(status, code, message, param) {
    const type = status < 500 ? 'invalid_request_error' : 'server_error';
    return json({error: {message: message, type: type, param: param || null, code: code}});
}

function reply(r, status, body) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(status, body);
}

function json(value) {
    return JSON.stringify(value) + '\n';
}

export default {
    clientName, refusal, excess, retryAfter, route, ask, next, models, state, conversation, parse, find, rigOf, rows,
};
