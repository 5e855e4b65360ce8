/* Small charts of the last hour. For people who do not see them, what they show is a sentence. */
const charts = new Set();

/* Draws into `element`; `show(times, values, most)` gives it new values and the top of its scale. */
export class Spark {
    constructor(element) {
        element.setAttribute('aria-hidden', 'true');
        const colour = (name) => () => getComputedStyle(element).getPropertyValue(name).trim();
        this.most = 1;
        this.chart = new uPlot({
            width: element.clientWidth || 120,
            height: element.clientHeight || 28,
            padding: [2, 0, 1, 0],
            cursor: {show: false},
            legend: {show: false},
            axes: [{show: false}, {show: false}],
            scales: {x: {time: true}, y: {range: () => [0, this.most]}},
            series: [{}, {stroke: colour('--spark'), fill: colour('--spark-fill'), width: 1.5, points: {show: false}}],
        }, [[], []], element);
        this.element = element;
        this.sizes = new ResizeObserver(() => this.fit());
        this.sizes.observe(element);
        charts.add(this);
    }

    show(times, values, most) {
        this.most = most > 0 ? most : 1;
        this.chart.setData([times, values]);
    }

    fit() {
        const {clientWidth: width, clientHeight: height} = this.element;
        if (width && (width !== this.chart.width || height !== this.chart.height)) {
            this.chart.setSize({width, height});
        }
    }

    remove() {
        charts.delete(this);
        this.sizes.disconnect();
        this.chart.destroy();
    }
}

export function most(values) {
    return Math.max(0, ...values.filter((value) => value !== null));
}

matchMedia('(prefers-color-scheme: dark)').addEventListener(
    'change', () => charts.forEach((spark) => spark.chart.redraw(false)));
