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
        await navigator.clipboard.writeText(byId(button.dataset.of).textContent);
        label.data = 'Copied';
        setTimeout(() => { label.data = 'Copy'; }, 2000);
    });
}

async function showState() {
    const state = byId('state');
    try {
        const ready = (await fetch('/health')).ok;
        state.textContent = ready ? 'Ready' : 'No rig is ready';
        state.dataset.ready = ready ? 'yes' : 'no';
    } catch {
        state.textContent = 'Cannot be reached';
        state.dataset.ready = 'no';
    }
}

async function showModels(key) {
    const note = byId('models-note');
    let answer;
    try {
        answer = await fetch('/v1/models', key ? {headers: {Authorization: `Bearer ${key}`}} : {});
    } catch {
        note.textContent = 'The service cannot be reached.';
        return;
    }
    byId('key-form').hidden = answer.status !== 401;
    if (answer.ok) {
        const models = (await answer.json()).data;
        byId('models').replaceChildren(...models.map(item));
        byId('models').hidden = false;
        note.textContent = '';
        if (key) {
            keepKey(key);
        }
    } else if (answer.status === 401) {
        forgetKey();
        note.textContent = key ? 'This key is not valid.' : 'They are shown to who has a key.';
    } else {
        const told = await answer.json().catch(() => ({}));
        note.textContent = `They cannot be shown: ${told.error ? told.error.message : answer.status}.`;
    }
}

function item(model) {
    const element = document.createElement('li');
    const name = document.createElement('code');
    name.textContent = model.id;
    element.append(name);
    if (model.aliases && model.aliases.length) {
        const also = document.createElement('small');
        also.textContent = ` also ${model.aliases.join(', ')}`;
        element.append(also);
    }
    return element;
}

if (navigator.clipboard) { // only with TLS, or on this machine
    document.querySelectorAll('.copy').forEach(copyButton);
}
byId('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    showModels(byId('key').value);
});
showState();
showModels(keptKey());
