/* What the page says beyond its text: whether the service is ready, its models, copying. */
import {forgetKey, keepKey, keptKey} from './key.js';

const byId = (id) => document.getElementById(id);

// nginx has written the address by which it was asked; before it there may be another that does TLS.
for (const id of ['address', 'example']) {
    byId(id).textContent = byId(id).textContent.replace(/https?:\/\/[^/\s]+/, location.origin);
}

function copyButton(button) {
    button.hidden = false;
    const label = button.firstChild;
    button.addEventListener('click', async () => {
        label.data = await copy(byId(button.dataset.of)) ? 'Copied' : 'Selected: press Ctrl+C';
        setTimeout(() => { label.data = 'Copy'; }, 2000);
    });
}

/* Copies an element's text; says whether that worked. Else it is selected. */
async function copy(element) {
    try {
        await navigator.clipboard.writeText(element.textContent); // only with TLS, or on this machine
        return true;
    } catch {
        getSelection().selectAllChildren(element);
        return document.execCommand('copy');
    }
}

async function showState() {
    const state = byId('state');
    try {
        const ready = (await fetch('/health')).ok;
        state.textContent = ready ? 'Ready' : 'Not available right now';
        state.dataset.ready = ready ? 'yes' : 'no';
    } catch {
        state.textContent = 'Cannot be reached';
        state.dataset.ready = 'no';
    }
}

async function showModels(key) {
    const note = byId('models-note');
    let answer;
    if (/[^ -~]/.test(key)) { // it could not stand in a header
        askForKey('This API key has characters that no key has. Copy it again.');
        return;
    }
    try {
        answer = await fetch('/v1/models', key ? {headers: {Authorization: `Bearer ${key}`}} : {});
    } catch {
        note.textContent = 'The service cannot be reached.';
        return;
    }
    byId('key-form').hidden = true;
    if (answer.ok) {
        const models = (await answer.json()).data;
        byId('models').replaceChildren(...models.map(item));
        byId('models').hidden = false;
        note.textContent = '';
        if (key) {
            keepKey(key);
        }
    } else if (answer.status === 401) {
        askForKey(key ? 'This API key is not valid. Check it and try again.' : 'Enter your API key to see which models there are.');
    } else {
        const told = await answer.json().catch(() => ({}));
        note.textContent = `The models cannot be listed: ${told.error ? told.error.message : `status ${answer.status}`}.`;
    }
}

function askForKey(why) {
    forgetKey();
    byId('models-note').textContent = why;
    byId('key-form').hidden = false;
}

function item(model) {
    const element = document.createElement('li');
    const name = document.createElement('code');
    name.textContent = model.id;
    element.append(name);
    if (model.aliases && model.aliases.length) {
        const also = document.createElement('small');
        also.textContent = ` also called ${model.aliases.join(', ')}`;
        element.append(also);
    }
    return element;
}

document.querySelectorAll('.copy').forEach(copyButton);
byId('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    showModels(byId('key').value.trim());
});
showState();
showModels(keptKey());
