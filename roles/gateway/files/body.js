/* What routing has to know of a request's body (ADR 17): its model, and what its conversation is known by.
 *
 * nginx serves everybody in one loop, and a byte may cost it 10 ns: JSON.parse() takes up to 60, and one call of a
 * function 100. So strings and lists of numbers are crossed with indexOf(), which is C. What cannot be crossed is
 * counted, and after `budget()` steps the reader stops; a rig has to read the whole anyway. It also refuses what is
 * no JSON: nothing is validated here, and a text's escapes stay as they are.
 */

// Steps that each body may take, and how many bytes bring one more. A step takes 50 to 100 ns, so they are a tenth of
// a millisecond and up to 0.5 ms for 100 KB: what else nginx does with a body takes as long (tools/bench_body.py).
const STEPS = 1500;
const BYTES_PER_STEP = 20;

// Characters that structure JSON, and how their places are kept in `ahead`.
const SPACE = 32, QUOTE = 34, COMMA = 44, COLON = 58, OPEN_LIST = 91, BACKSLASH = 92, CLOSE_LIST = 93, OPEN = 123, CLOSE = 125;

// Bytes. No name that is looked for is longer, even with every character as an escape.
const LONGEST_NAME = 128;
// What stands for a conversation is no longer: of each text, and of all of them.
const LONGEST_TEXT = 4096;
const LONGEST_OPENING = 16384;
// Bytes of a text prompt that stand for its conversation.
const SHORTEST_BEGINNING = 64;
const LONGEST_BEGINNING = 1024;

// The fields in which a text prompt may be.
const PROMPTS = ['prompt', 'input_prefix', 'input', 'query', 'content'];
const TURNS = ['messages', 'input'];

// What is known of a body of which nothing was read.
const UNREAD = {opening: '', is_whole: false};

const EXHAUSTED = 'exhausted', NO_OBJECT = 'no object', CUT_OFF = 'cut off';

/* Read a body, a Buffer.
 *
 * Returns {model, cache_key, opening, is_whole}: the first two as JSON.parse() would have them, the third a text.
 * Without `is_whole` the budget has ended: there may be a model and a cache key, and others, beyond what was read.
 * Without an object in it: {error}, a message.
 */
function read(bytes) {
    if (bytes.length === 0) {
        return {error: 'the body is empty'};
    }
    const reader = start(bytes);
    const fields = {};
    let isWhole = true;
    try {
        readObject(reader, fields);
    } catch (why) {
        if (why === NO_OBJECT) {
            return {error: 'the body is not a JSON object'};
        }
        if (why === CUT_OFF) {
            return {error: 'the body is not valid JSON: it ends too early'};
        }
        if (why !== EXHAUSTED) {
            throw why;
        }
        isWhole = false;
    }
    return {
        model: fields.model,
        cache_key: fields.prompt_cache_key,
        opening: opening(fields) || (isWhole ? 'text\n' : 'body\n' + cut(reader, 0, LONGEST_BEGINNING)),
        is_whole: isWhole,
    };
}

/* How many steps a body of so many bytes may take. */
function budget(length) {
    return STEPS + Math.floor(length / BYTES_PER_STEP);
}

function start(bytes) {
    return {
        bytes: bytes,
        length: bytes.length,
        at: 0,
        left: budget(bytes.length),
        // Where each mark comes next, seen from a place that was passed: so each byte is searched once for each.
        ahead: {},
    };
}

function readObject(reader, fields) {
    const bytes = reader.bytes;
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) { // llama-server skips a byte order mark
        reader.at = 3;
    }
    if (peek(reader) !== OPEN) {
        throw NO_OBJECT;
    }
    reader.at += 1;
    let name;
    while ((name = nextName(reader)) !== null) {
        const from = reader.at;
        if (name === 'model' || name === 'prompt_cache_key') {
            skipValue(reader);
            fields[name] = value(reader, from);
        } else if (TURNS.includes(name) && bytes[from] === OPEN_LIST) {
            fields[name] = turns(reader);
        } else if (name === 'system' || name === 'instructions') {
            fields[name] = text(reader);
        } else {
            skipValue(reader);
            if (PROMPTS.includes(name)) {
                fields[name] = beginning(reader, from);
            }
        }
    }
}

/* What stays the same in a conversation from turn to turn; '' where nothing was found. */
function opening(fields) {
    const said = TURNS.map((name) => fields[name]).find((given) => given && given.isTurns);
    const before = ['system', 'instructions'].map((name) => fields[name] || '').join('\n');
    if (said) {
        return 'chat\n' + before + said.text;
    }
    if (fields.input) { // a chat's first turn, or a text to embed
        return 'chat\n' + before + '\n' + fields.input;
    }
    const given = PROMPTS.find((name) => fields[name]);
    return given ? 'text\n' + fields[given] : '';
}

/* The system's words and the first user's, of a list of turns; what it is instead, where it is none. */
function turns(reader) {
    const from = reader.at;
    reader.at += 1;
    if (peek(reader) !== OPEN) {
        reader.at = from;
        skipContainer(reader);
        return beginning(reader, from);
    }
    const said = []; // njs keeps every text that one is put together from
    let length = 0, begun = '';
    for (;;) {
        const begin = reader.at;
        const turn = peek(reader) === OPEN ? readTurn(reader) : (skipValue(reader), {});
        begun = begun || cut(reader, begin, reader.at);
        if (['user', 'system', 'developer'].includes(turn.role) && length < LONGEST_OPENING) {
            said.push('\n' + (turn.content || ''));
            length += said[said.length - 1].length;
        }
        if (turn.role === 'user') {
            skipRest(reader);
            break;
        }
        if (!goesOn(reader)) {
            break;
        }
    }
    return {isTurns: true, text: said.join('') || begun};
}

function readTurn(reader) {
    const turn = {};
    reader.at += 1;
    let name;
    while ((name = nextName(reader)) !== null) {
        if (name === 'role') {
            const from = reader.at;
            skipValue(reader);
            turn.role = value(reader, from);
        } else if (name === 'content') {
            turn.content = text(reader);
        } else {
            skipValue(reader);
        }
    }
    return turn;
}

/* The text of a content: a string, or parts. Marks such as cache_control move from turn to turn. */
function text(reader) {
    const from = reader.at;
    if (reader.bytes[from] !== OPEN_LIST) {
        skipValue(reader);
        return reader.bytes[from] === QUOTE ? cut(reader, from + 1, reader.at - 1)
            : isNothing(reader, from) ? '' : cut(reader, from, reader.at);
    }
    reader.at += 1;
    const said = [];
    let length = 0;
    while (goesOn(reader)) {
        const begin = reader.at;
        const part = reader.bytes[begin] === OPEN ? readPart(reader) : (skipValue(reader), undefined);
        if (length < LONGEST_TEXT) {
            said.push(part === undefined ? cut(reader, begin, reader.at) : part);
            length += said[said.length - 1].length;
        }
    }
    return said.join('');
}

/* The text of a part; undefined where it has none. */
function readPart(reader) {
    let found, name;
    reader.at += 1;
    while ((name = nextName(reader)) !== null) {
        const from = reader.at;
        skipValue(reader);
        if (name === 'text' && reader.bytes[from] === QUOTE) {
            found = cut(reader, from + 1, reader.at - 1);
        }
    }
    return found;
}

/* A prompt grows with each turn: its beginning stays the same until it is twice as long. */
function beginning(reader, from) {
    if (isNothing(reader, from)) {
        return '';
    }
    const inside = reader.bytes[from] === QUOTE ? 1 : 0;
    const size = reader.at - from - 2 * inside;
    let length = SHORTEST_BEGINNING;
    while (length < LONGEST_BEGINNING && length * 2 <= size) {
        length *= 2;
    }
    return cut(reader, from + inside, from + inside + Math.min(length, size));
}

/* Whether the value that has been crossed is null, false, 0 or ''. */
function isNothing(reader, from) {
    const length = reader.at - from;
    return length <= 5 && ['null', 'false', '0', '""'].includes(reader.bytes.toString('utf8', from, reader.at).trim());
}

/* The value that has been crossed, as JSON.parse() has it; one that is too long for a name as its beginning. */
function value(reader, from) {
    if (reader.at - from > LONGEST_TEXT) {
        return cut(reader, from, reader.at);
    }
    step(reader, (reader.at - from) >> 2);
    try {
        return JSON.parse(reader.bytes.toString('utf8', from, reader.at));
    } catch (error) {
        return cut(reader, from, reader.at); // no JSON, or too deep for njs: no model's name
    }
}

/* Some bytes as text, at most LONGEST_TEXT. */
function cut(reader, from, to) {
    return reader.bytes.toString('utf8', from, Math.min(to, from + LONGEST_TEXT, reader.length));
}

/* The next name in an object, with the place at its value; null behind the object's end. */
function nextName(reader) {
    if (!goesOn(reader)) {
        return null;
    }
    const from = reader.at;
    step(reader, 18);
    if (reader.bytes[from] !== QUOTE) {
        skipValue(reader); // no JSON; the rig says so
        return '';
    }
    skipString(reader);
    const to = reader.at;
    if (peek(reader) === COLON) {
        reader.at += 1;
        peek(reader);
    }
    if (to - from > LONGEST_NAME) {
        return '';
    }
    const name = reader.bytes.toString('utf8', from + 1, to - 1);
    return name.includes('\\') ? unescaped(reader, from, to) : name;
}

function unescaped(reader, from, to) {
    step(reader, 16);
    try {
        return JSON.parse(reader.bytes.toString('utf8', from, to));
    } catch (error) {
        return '';
    }
}

/* Whether a list or an object has more in it; its end is passed. */
function goesOn(reader) {
    let next = peek(reader);
    if (next === COMMA) {
        reader.at += 1;
        next = peek(reader);
    }
    if (next === CLOSE || next === CLOSE_LIST) {
        reader.at += 1;
        return false;
    }
    return true;
}

/* The next byte that is no white space; the reader is there. */
function peek(reader) {
    const bytes = reader.bytes;
    let at = reader.at, next = bytes[at];
    step(reader, 3);
    while (next <= SPACE) {
        reader.left -= 2;
        if (reader.left < 0) {
            throw EXHAUSTED;
        }
        at += 1;
        next = bytes[at];
    }
    if (next === undefined) {
        throw CUT_OFF;
    }
    reader.at = at;
    return next;
}

function skipValue(reader) {
    const next = peek(reader);
    if (next === QUOTE) {
        skipString(reader);
    } else if (next === OPEN || next === OPEN_LIST) {
        skipContainer(reader);
    } else {
        skipScalar(reader);
    }
}

/* Cross a number or a word, and whatever else ends at a comma or with what it is in. */
function skipScalar(reader) {
    const bytes = reader.bytes, near = reader.at + 12;
    step(reader, 6);
    for (let at = reader.at, next; at < near; at += 1) {
        next = bytes[at];
        if (next === COMMA || next === CLOSE || next === CLOSE_LIST) {
            reader.at = at;
            return;
        }
    }
    reader.at = Math.min(ahead(reader, COMMA), ahead(reader, CLOSE), ahead(reader, CLOSE_LIST));
}

/* Cross a string; the reader is at its first quote. */
function skipString(reader) {
    const bytes = reader.bytes;
    let end = reader.at, from, left = reader.left - 2;
    do {
        end = bytes.indexOf(QUOTE, end + 1);
        if (end < 0) {
            throw CUT_OFF;
        }
        for (from = end; left >= 0 && bytes[from - 1] === BACKSLASH; from -= 1) {
            left -= 1;
        }
        left -= 2;
        if (left < 0) {
            throw EXHAUSTED;
        }
    } while ((end - from) % 2 === 1);
    reader.left = left;
    reader.at = end + 1;
}

function skipContainer(reader) {
    reader.at += 1;
    skipRest(reader);
}

/* Cross what is left of a list or an object. */
function skipRest(reader) {
    const bytes = reader.bytes;
    let at = reader.at, left = reader.left, depth = 1, next, end;
    while (depth > 0) {
        left -= 3; // without a call of step(), which would take as long as all that follows
        if (left < 0) {
            throw EXHAUSTED;
        }
        next = bytes[at];
        if (next === QUOTE) {
            end = bytes.indexOf(QUOTE, at + 1);
            if (bytes[end - 1] === BACKSLASH || end < 0) {
                reader.at = at;
                reader.left = left;
                skipString(reader);
                at = reader.at;
                left = reader.left;
            } else {
                at = end + 1;
            }
        } else if (next === OPEN || next === OPEN_LIST) {
            depth += 1;
            at += 1;
        } else if (next === CLOSE || next === CLOSE_LIST) {
            depth -= 1;
            at += 1;
        } else if (next === COMMA || next === COLON) {
            at += bytes[at + 1] === SPACE ? 2 : 1;
        } else { // white space, numbers, words: no matter how many
            reader.at = at;
            reader.left = left;
            at = Math.min(ahead(reader, QUOTE), ahead(reader, OPEN), ahead(reader, CLOSE),
                          ahead(reader, OPEN_LIST), ahead(reader, CLOSE_LIST));
            left = reader.left;
        }
        if (at >= reader.length && depth > 0) {
            throw CUT_OFF;
        }
    }
    reader.at = at;
    reader.left = left;
}

/* Where a character is next from the reader's place on. What was found is kept until it has been passed, so that
 * each byte is searched once for each character. */
function ahead(reader, character) {
    const places = reader.ahead;
    let place = places[character];
    step(reader, 6);
    if (place === undefined || place < reader.at) {
        place = reader.bytes.indexOf(character, reader.at);
        places[character] = place = place < 0 ? reader.length : place;
    }
    return place;
}

function step(reader, number) {
    reader.left -= number;
    if (reader.left < 0) {
        throw EXHAUSTED;
    }
}

export default {read, budget, UNREAD};
