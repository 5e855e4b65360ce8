/* The API key that somebody has given this browser, for all pages of this gateway. */
const PLACE = 'heartcode.key';

/* The key, '' where there is none or the browser keeps nothing for pages. */
export function keptKey() {
    try {
        return localStorage.getItem(PLACE) || '';
    } catch {
        return '';
    }
}

export function keepKey(key) {
    try {
        localStorage.setItem(PLACE, key);
    } catch {
        // It is asked for again the next time.
    }
}

export function forgetKey() {
    try {
        localStorage.removeItem(PLACE);
    } catch {
        // Nothing is kept there.
    }
}
