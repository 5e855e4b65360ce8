/* Numbers and times as people read them. */
export const NONE = '–';

const GIB = 2 ** 30;

export function decimal(value, digits = 0, unit = '') {
    return value === undefined ? NONE
        : value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits}) + unit;
}

/* Small rates with a digit, large ones without. */
export function rate(value) {
    return decimal(value, value < 100 ? 1 : 0);
}

export function gib(bytes) {
    return bytes === undefined ? NONE : decimal(bytes / GIB, 1);
}

export function count(number, one, many = `${one}s`) {
    return `${number} ${number === 1 ? one : many}`;
}

/* A span of time: "8 s", "3 min", "2 h", "4 days". */
export function span(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 90) {
        return `${whole} s`;
    }
    if (whole < 5400) {
        return `${Math.round(whole / 60)} min`;
    }
    return whole < 172800 ? `${Math.round(whole / 3600)} h` : `${Math.round(whole / 86400)} days`;
}

export function clock(date) {
    return date.toLocaleTimeString('en-GB');
}
