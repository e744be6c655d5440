// Two small charts on canvases: three curves over one time axis, and one filled curve.

/** The canvas's context, scaled so that units are CSS pixels, with its size and colours. */
function prepare(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext('2d');
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return { context, width, height, colour };
}

/** A round number that is at least `value`, for the top of an axis. */
function ceiling(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * unit).find((top) => top >= value);
}

/**
 * Draws `lanes`, one above the other: each has a `label`, the name of a `tone`, and
 * `of(point)`. Points have a time `at` in milliseconds; `marks` are drawn across
 * all lanes, with their `label` above. Nothing joins points on both sides of a mark
 * that `breaks`.
 */
export function drawLanes(canvas, { points, lanes, marks, span, format }) {
  const { context, width, height, colour } = prepare(canvas);
  const left = 58;
  const bottom = 20;
  const head = 16;
  const gap = 14;
  const end = points.at(-1)?.at ?? 0;
  const x = (at) => left + ((at - end + span) / span) * (width - left - 4);
  const laneHeight = (height - head - bottom - gap * (lanes.length - 1)) / lanes.length;
  context.font = '11.5px ' + colour('--mono');
  context.textBaseline = 'middle';

  context.fillStyle = colour('--muted');
  context.textAlign = 'center';
  for (let back = 0; back <= span; back += 10_000) {
    const label = back === 0 ? 'newest' : `−${back / 1000} s`;
    context.textAlign = back === 0 ? 'right' : back === span ? 'left' : 'center';
    context.fillText(label, x(end - back), height - 7);
  }

  lanes.forEach((lane, index) => {
    const top = head + index * (laneHeight + gap);
    const tone = colour(lane.tone);
    const values = points.map(lane.of).filter((value) => value !== null);
    const highest = lane.max ?? ceiling(Math.max(lane.least ?? 1, ...values));
    const y = (value) => top + laneHeight - 3 - (Math.min(value, highest) / highest) * (laneHeight - 8);

    context.strokeStyle = colour('--line');
    context.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      const line = Math.round(y(highest * share)) + 0.5;
      context.beginPath();
      context.moveTo(left, line);
      context.lineTo(width - 4, line);
      context.stroke();
    }
    context.fillStyle = colour('--muted');
    context.textAlign = 'right';
    context.fillText(format(highest), left - 8, y(highest) + 1);
    context.fillText('0', left - 8, y(0));

    context.save();
    context.beginPath();
    context.rect(left, top - 4, width - left, laneHeight + 8);
    context.clip();
    context.strokeStyle = tone;
    context.lineWidth = 1.8;
    context.lineJoin = 'round';
    context.beginPath();
    let before = null;
    for (const point of points) {
      const value = lane.of(point);
      if (value === null) continue;
      const isBroken = before && marks.some((mark) => mark.breaks && before.at < mark.at && mark.at <= point.at);
      if (!before || isBroken) context.moveTo(x(point.at), y(value));
      else context.lineTo(x(point.at), y(value));
      before = point;
    }
    context.stroke();
    // Single samples are seen for what they are, as long as there is room.
    if (points.length < (width - left) / 6) {
      context.fillStyle = tone;
      for (const point of points) {
        const value = lane.of(point);
        if (value === null) continue;
        context.beginPath();
        context.arc(x(point.at), y(value), 2, 0, 7);
        context.fill();
      }
    }
    context.restore();

    context.textAlign = 'left';
    const label = context.measureText(lane.label).width;
    context.fillStyle = colour('--card');
    context.globalAlpha = 0.85;
    context.fillRect(left + 4, top + 8, label + 10, 17);
    context.globalAlpha = 1;
    context.fillStyle = tone;
    context.fillText(lane.label, left + 9, top + 17);
  });

  // From the newest on: a label that would reach the next mark is left out.
  let right = width;
  context.lineWidth = 1.5;
  context.textAlign = 'left';
  for (const mark of [...marks].reverse()) {
    const at = x(mark.at);
    if (at < left) continue;
    context.strokeStyle = context.fillStyle = colour(mark.tone);
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(at, 4);
    context.lineTo(at, height - bottom);
    context.stroke();
    context.setLineDash([]);
    if (at + 5 + context.measureText(mark.label).width < right) context.fillText(mark.label, at + 5, 7);
    right = at - 4;
  }
}

/** Draws `values`, the last at the right edge, of at most `count`. */
export function drawSpark(canvas, values, count, tone) {
  const { context, width, height, colour } = prepare(canvas);
  const highest = Math.max(1, ...values) * 1.08;
  const x = (index) => width - ((values.length - 1 - index) / (count - 1)) * width;
  const y = (value) => height - 2 - (value / highest) * (height - 4);
  context.strokeStyle = colour('--line');
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(0, height - 1.5);
  context.lineTo(width, height - 1.5);
  context.stroke();
  if (values.length < 2) return;
  context.beginPath();
  values.forEach((value, index) => context.lineTo(x(index), y(value)));
  context.strokeStyle = colour(tone);
  context.lineWidth = 1.8;
  context.lineJoin = 'round';
  context.stroke();
  context.lineTo(width, height);
  context.lineTo(x(0), height);
  context.closePath();
  context.globalAlpha = 0.13;
  context.fillStyle = colour(tone);
  context.fill();
  context.globalAlpha = 1;
}
