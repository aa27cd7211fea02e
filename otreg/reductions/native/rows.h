// The sums for one type and one set of instructions: included by library.c, which defines REAL, INTEGER, TYPED(), SET,
// TARGET, LANES, VMAX and VMIN, and what belongs to the type.
//
// A group of ROWS rows lies side by side in VECTORS registers; the columns come by one after the other, CHUNK of them
// between two looks at the references. Scores h_j - |x_i - y_j|²/(2 eps) are taken in units of log 2, against a
// reference of each row, a whole number, which moves only where a sum exceeds it by LIMIT: rarely, since the first comes
// from a sample of the columns. Squares are taken of differences, so that nothing cancels; h is cut into a whole part
// and a rest, so that (whole - reference) is exact however large the potentials are.

#define VECTORS 2
#define AT_ONCE 2  // columns whose weights are taken together
#define ROWS (LANES * VECTORS)
#define VECTOR NAME(vector)
#define INTEGERS NAME(integers)
#define GROUP const VECTOR(*)[VECTORS]
#define INLINE static inline __attribute__((always_inline)) TARGET
#define ROW(array, k) (array)[(k) / LANES][(k) % LANES]

typedef REAL VECTOR __attribute__((vector_size(sizeof(REAL) * LANES)));
typedef VECTOR NAME(unaligned) __attribute__((aligned(sizeof(REAL)), may_alias));
#define LOAD(address) (*(const NAME(unaligned) *)(address))
typedef INTEGER INTEGERS __attribute__((vector_size(sizeof(REAL) * LANES)));

#ifndef VMAX
#define VMAX NAME(larger)
#define VMIN NAME(smaller)
INLINE VECTOR NAME(larger)(VECTOR a, VECTOR b) {
  VECTOR result;
  for (int k = 0; k < LANES; ++k) result[k] = a[k] > b[k] ? a[k] : b[k];
  return result;
}
INLINE VECTOR NAME(smaller)(VECTOR a, VECTOR b) {
  VECTOR result;
  for (int k = 0; k < LANES; ++k) result[k] = a[k] < b[k] ? a[k] : b[k];
  return result;
}
INLINE unsigned NAME(where)(VECTOR values, REAL limit) {
  unsigned result = 0;
  for (int k = 0; k < LANES; ++k) result |= (unsigned)(values[k] >= limit) << k;
  return result;
}
#define WHERE NAME(where)
#endif

// What the sums of a group of rows have come to: `total` and `values` in terms of 2^(reference + base).
typedef struct {
  double base;
  REAL sharpness;
  VECTOR reference[VECTORS];
  double total[ROWS], values[MOST_CHANNELS][ROWS];
  VECTOR part[VECTORS], value_part[MOST_CHANNELS][VECTORS];
} NAME(sums);

INLINE VECTOR NAME(spread)(REAL value) { return value - (VECTOR){0}; }

INLINE VECTOR NAME(score)(
    int D, const VECTOR (*x)[VECTORS], REAL sharpness, int r, const REAL *column, REAL whole, VECTOR reference) {
  VECTOR squared = {0};
  for (int d = 0; d < D; ++d) {
    const VECTOR difference = x[d][r] - column[d];
    squared += difference * difference;
  }
  return (column[D] - sharpness * squared) + (whole - reference);
}

// Weights 2^score of AT_ONCE columns in all rows. Step by step for all of them: one after the other, each would wait for
// the steps before.
INLINE void NAME(weigh)(
    int D, const VECTOR (*x)[VECTORS], REAL sharpness, const REAL *column, long stride, const REAL *whole,
    const VECTOR *reference, VECTOR (*weights)[VECTORS]) {
  VECTOR s[AT_ONCE * VECTORS], n[AT_ONCE * VECTORS], p[AT_ONCE * VECTORS];
#define EACH _Pragma("GCC unroll 16") for (int k = 0; k < AT_ONCE * VECTORS; ++k)
#define COLUMN (column + k / VECTORS * stride)
  EACH n[k] = x[0][k % VECTORS] - COLUMN[0];
  EACH s[k] = n[k] * n[k];
#pragma GCC unroll 8
  for (int d = 1; d < D; ++d) {
    EACH n[k] = x[d][k % VECTORS] - COLUMN[d];
    EACH s[k] += n[k] * n[k];
  }
  EACH s[k] = COLUMN[D] - sharpness * s[k];
  EACH s[k] += whole[k / VECTORS] - reference[k % VECTORS];
  EACH s[k] = VMAX(s[k], NAME(spread)(LOWEST));
  EACH s[k] = VMIN(s[k], NAME(spread)(HIGHEST));
  // 2^s by a polynomial on [-1/2, 1/2]: adding 1.5 · 2^MANTISSA rounds, and leaves the whole part in the last bits
  EACH n[k] = s[k] + MAGIC;
  EACH s[k] -= n[k] - MAGIC;
  EACH p[k] = s[k] * COEFFICIENTS[DEGREE - 1] + COEFFICIENTS[DEGREE - 2];
#pragma GCC unroll 16
  for (int e = DEGREE - 3; e >= 0; --e) EACH p[k] = p[k] * s[k] + COEFFICIENTS[e];
  EACH p[k] = p[k] * s[k] + 1;
  EACH weights[k / VECTORS][k % VECTORS] = (VECTOR)((INTEGERS)p[k] + ((INTEGERS)n[k] << MANTISSA));
#undef EACH
#undef COLUMN
}

INLINE int NAME(any_above)(const VECTOR *values, REAL limit) {
  VECTOR most = values[0];
  for (int r = 1; r < VECTORS; ++r) most = VMAX(most, values[r]);
  int found = 0;
  for (int k = 0; k < LANES; ++k) found |= most[k] > limit;
  return found;
}

// CHUNK columns far above the references, or none were known: better ones, and the sums so far in their terms.
static TARGET __attribute__((noinline)) void NAME(raise)(
    int D, int V, const VECTOR (*x)[VECTORS], const REAL *column, const REAL *whole, const VECTOR *chunk,
    NAME(sums) *sums) {
  for (int r = 0; r < VECTORS; ++r) {
    VECTOR highest = NAME(spread)(NOTHING), shrink;
    for (int k = 0; k < CHUNK; ++k)
      highest = VMAX(highest, NAME(score)(D, x, sums->sharpness, r, column + k * (D + 1 + V), whole[k], NAME(spread)(0)));
    for (int lane = 0; lane < LANES; ++lane) {
      const REAL before = sums->reference[r][lane], next = chunk[r][lane] > LIMIT ? ROUND(highest[lane]) : before;
      const double factor = next > before ? exp2((double)before - next) : 1;
      sums->reference[r][lane] = next;
      sums->total[r * LANES + lane] *= factor;
      for (int v = 0; v < V; ++v) sums->values[v][r * LANES + lane] *= factor;
      shrink[lane] = (REAL)factor;
    }
    sums->part[r] *= shrink;
    for (int v = 0; v < V; ++v) sums->value_part[v][r] *= shrink;
  }
}

// Adds TILE columns, one after the other in memory, to the sums.
INLINE void NAME(add_columns)(
    int D, int V, const VECTOR (*x)[VECTORS], const REAL *columns, const double *wholes, NAME(sums) *sums) {
  const long stride = D + 1 + V;
  const REAL sharpness = sums->sharpness;
  REAL whole[TILE];
  for (int k = 0; k < TILE; ++k) whole[k] = (REAL)(wholes[k] - sums->base);
  for (int r = 0; r < VECTORS; ++r) sums->part[r] = NAME(spread)(0);
  for (int v = 0; v < V; ++v)
    for (int r = 0; r < VECTORS; ++r) sums->value_part[v][r] = NAME(spread)(0);
#pragma GCC unroll 1
  for (int start = 0; start < TILE; start += CHUNK) {
    const REAL *column = columns + start * stride;
    VECTOR weights[CHUNK][VECTORS], chunk[VECTORS];
#pragma GCC unroll 1
    for (int again = 0; again < 2; ++again) {
      for (int r = 0; r < VECTORS; ++r) chunk[r] = NAME(spread)(0);
#pragma GCC unroll 1
      for (int k = 0; k < CHUNK; k += AT_ONCE) {
        NAME(weigh)(
            D, x, sharpness, column + k * stride, stride, whole + start + k, sums->reference, weights + k);
#pragma GCC unroll 16
        for (int j = 0; j < AT_ONCE; ++j)
#pragma GCC unroll 8
          for (int r = 0; r < VECTORS; ++r) chunk[r] += weights[k + j][r];
      }
      if (again || !NAME(any_above)(chunk, LIMIT)) break;
      NAME(raise)(D, V, x, column, whole + start, chunk, sums);
    }
    for (int r = 0; r < VECTORS; ++r) sums->part[r] += chunk[r];
    for (int v = 0; v < V; ++v) {
      VECTOR sum[VECTORS];
#pragma GCC unroll 8
      for (int r = 0; r < VECTORS; ++r) sum[r] = NAME(spread)(0);
#pragma GCC unroll 16
      for (int k = 0; k < CHUNK; ++k)
#pragma GCC unroll 8
        for (int r = 0; r < VECTORS; ++r) sum[r] += weights[k][r] * column[k * stride + D + 1 + v];
      for (int r = 0; r < VECTORS; ++r) sums->value_part[v][r] += sum[r];
    }
  }
  // sums of a million terms, one by one, would lose digits
  for (int k = 0; k < ROWS; ++k) sums->total[k] += ROW(sums->part, k);
  for (int v = 0; v < V; ++v)
    for (int k = 0; k < ROWS; ++k) sums->values[v][k] += ROW(sums->value_part[v], k);
}

// The same, compiled for the dimensions that are asked for most.
static TARGET __attribute__((noinline)) void NAME(add)(
    int D, int V, const VECTOR (*x)[VECTORS], const REAL *columns, const double *wholes, NAME(sums) *sums) {
  switch (D) {
    case 2: NAME(add_columns)(2, V, x, columns, wholes, sums); break;
    case 3: NAME(add_columns)(3, V, x, columns, wholes, sums); break;
    case 6: NAME(add_columns)(6, V, x, columns, wholes, sums); break;
    default: NAME(add_columns)(D, V, x, columns, wholes, sums);
  }
}

// The same for columns here and there, at most TILE of them.
static TARGET __attribute__((noinline)) void NAME(add_some)(
    const TYPED(problem) *p, const VECTOR (*x)[VECTORS], const long *places, int count, NAME(sums) *sums) {
  const int stride = p->dimension + 1 + p->channels;
  REAL gathered[TILE * (MOST_DIMENSIONS + 1 + MOST_CHANNELS)];
  double wholes[TILE];
  for (int k = 0; k < count; ++k) {
    const REAL *column = p->panel + places[k] * stride;
    // of a constant size: no call
    if (stride == 4) memcpy(gathered + k * stride, column, sizeof(REAL) * 4);
    else memcpy(gathered + k * stride, column, sizeof(REAL) * stride);
    wholes[k] = p->whole[places[k]];
  }
  if (count < TILE) memset(gathered + count * stride, 0, sizeof(REAL) * stride * (TILE - count));
  for (int k = count; k < TILE; ++k) wholes[k] = ABSENT;
  NAME(add)(p->dimension, p->channels, x, gathered, wholes, sums);
}

// What decides whether columns matter to a group of rows: the box of the rows once they are moved to their partners,
// and a plane that stands for what is far larger than the difference that decides.
//
// Where rows are far from their partners, potentials are steep: what they change by between neighbouring columns, and
// the sums between neighbouring rows, nearly cancels, but not in bounds that look at one of them. With x' = x + δ, δ from
// the middle row to its partner y0, |x - y|² = |x' - y|² - 2 δ·(x' - y) + |δ|²; h - 2 δ·(y - y0) is nearly level
// around y0, and so are the sums less 2 δ·(x' - y0) - |δ|².
typedef struct {
  REAL twice[MOST_DIMENSIONS], origin[MOST_DIMENSIONS], centre[MOST_DIMENSIONS], reach[MOST_DIMENSIONS], least;
} NAME(view);

static TARGET __attribute__((noinline)) void NAME(look)(
    const TYPED(problem) *p, int D, const VECTOR (*x)[VECTORS], const long *known, int count, const NAME(sums) *sums,
    NAME(view) *view) {
  // the partner: the middle of the best columns known to the middle row
  const int row = ROWS / 2;
  VECTOR scores[NEAREST * TILE / LANES], most = NAME(spread)(NOTHING);
  for (int n = 0; n < count * TILE / LANES; ++n) {
    const long place = known[n / (TILE / LANES)] * TILE + n % (TILE / LANES) * LANES;
    VECTOR score = LOAD(p->score + place);
    for (int d = 0; d < D; ++d) {
      const VECTOR difference = LOAD(p->axes + d * p->places + place) - ROW(x[d], row);
      score -= p->sharpness * (difference * difference);
    }
    scores[n] = score;
    most = VMAX(most, score);
  }
  REAL best = most[0], share = 0, origins[MOST_DIMENSIONS] = {0};
  for (int k = 1; k < LANES; ++k) best = most[k] > best ? most[k] : best;
  for (int k = 0; k < count * TILE; ++k) {
    if (scores[k / LANES][k % LANES] < best - 3) continue;
    const long place = known[k / TILE] * TILE + k % TILE;
    for (int d = 0; d < D; ++d) origins[d] += p->axes[d * p->places + place];
    share += 1;
  }
  const REAL sharpness = p->sharpness;
  REAL levels[ROWS], size = 0;
  for (int k = 0; k < ROWS; ++k) {
    levels[k] = (REAL)(sums->base - p->constant) + ROW(sums->reference, k) + (REAL)log2(sums->total[k]);
    size = levels[k] > size ? levels[k] : -levels[k] > size ? -levels[k] : size;
  }
  for (int d = 0; d < D; ++d) {
    // where no column is known, the row stays where it is
    const REAL origin = share > 0 ? origins[d] / share : ROW(x[d], row);
    const REAL delta = origin - ROW(x[d], row);
    REAL low = -NOTHING, high = NOTHING;
    for (int k = 0; k < ROWS; ++k) {
      const REAL value = ROW(x[d], k) + delta;
      low = value < low ? value : low;
      high = value > high ? value : high;
      levels[k] -= sharpness * (2 * delta * (value - origin) - delta * delta);
    }
    view->twice[d] = 2 * sharpness * delta;
    view->origin[d] = origin;
    view->centre[d] = (low + high) / 2;
    view->reach[d] = (high - low) / 2 * (1 + SLACK);
    size += sharpness * (delta < 0 ? -delta : delta) * (1 + (origin < 0 ? -origin : origin));
  }
  view->least = -NOTHING;
  for (int k = 0; k < ROWS; ++k) view->least = levels[k] < view->least ? levels[k] : view->least;
  // what rounding may hide
  view->least -= (REAL)p->margin + 8 * SLACK * size;
}

// The highest score that each tile may have in these rows, less the plane.
static TARGET __attribute__((noinline)) void NAME(bounds)(
    const TYPED(problem) *p, const NAME(view) *view, REAL *bound) {
  const VECTOR zero = {0};
  const long step = p->tile_places;
  for (long t = 0; t < step; t += LANES) {
    VECTOR sum = LOAD(p->height + t);
    for (int d = 0; d < p->dimension; ++d) {
      const VECTOR middle = LOAD(p->middle + d * step + t), half = LOAD(p->half + d * step + t);
      const VECTOR away = middle - view->centre[d], rise = LOAD(p->slope + d * step + t) - view->twice[d];
      const VECTOR gap = VMAX(VMAX(away, -away) - view->reach[d] - half, zero);
      sum += VMAX(rise, -rise) * half - view->twice[d] * (middle - view->origin[d]) - p->sharpness * (gap * gap);
    }
    *(NAME(unaligned) *)(bound + t) = sum;
  }
}

// The same for each column of a tile: the places of those that may matter; returns how many.
INLINE int NAME(wanted)(const TYPED(problem) *p, const NAME(view) *view, int D, long tile, long *places) {
  const VECTOR zero = {0};
  int count = 0;
  for (long place = tile * TILE; place < (tile + 1) * TILE; place += LANES) {
    VECTOR sum = LOAD(p->score + place);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const VECTOR y = LOAD(p->axes + d * p->places + place), away = y - view->centre[d];
      const VECTOR gap = VMAX(VMAX(away, -away) - view->reach[d], zero);
      sum -= view->twice[d] * (y - view->origin[d]) + p->sharpness * (gap * gap);
    }
    for (unsigned where = WHERE(sum, view->least); where; where &= where - 1)
      places[count++] = place + __builtin_ctz(where);
  }
  return count;
}

// Starts the sums: references from a sample of the columns, where `sampled`, else none.
static TARGET __attribute__((noinline)) void NAME(start)(
    const TYPED(problem) *p, int D, const VECTOR (*x)[VECTORS], int sampled, NAME(sums) *sums) {
  VECTOR best[VECTORS];
  for (int r = 0; r < VECTORS; ++r) best[r] = NAME(spread)(NOTHING);
  for (long s = 0; s < p->samples && sampled; ++s) {
    REAL column[MOST_DIMENSIONS + 1];
    for (int d = 0; d <= D; ++d) column[d] = p->sample[d * p->sample_places + s];
    for (int r = 0; r < VECTORS; ++r) best[r] = VMAX(best[r], NAME(score)(D, x, p->sharpness, r, column, 0, NAME(spread)(0)));
  }
  const REAL first = best[0][0] > NOTHING ? ROUND(best[0][0]) : 0;
  sums->base = p->constant + first;
  sums->sharpness = p->sharpness;
  for (int r = 0; r < VECTORS; ++r)
    for (int lane = 0; lane < LANES; ++lane)
      sums->reference[r][lane] = best[r][lane] > NOTHING ? ROUND(best[r][lane]) - first : NOTHING;
  memset(sums->total, 0, sizeof sums->total);
  memset(sums->values, 0, sizeof(double) * ROWS * p->channels);
}

// The tiles, at most NEAREST, whose samples have the highest scores for the middle row; `room` for all samples.
static TARGET __attribute__((noinline)) int NAME(nearest)(
    const TYPED(problem) *p, int D, const VECTOR (*x)[VECTORS], REAL *room, long *tiles) {
  REAL best[NEAREST];
  int count = 0;
  for (long s = 0; s < p->sample_places; s += LANES) {
    VECTOR score = LOAD(p->sample + D * p->sample_places + s);
    for (int d = 0; d < D; ++d) {
      const VECTOR difference = LOAD(p->sample + d * p->sample_places + s) - ROW(x[d], ROWS / 2);
      score -= p->sharpness * (difference * difference);
    }
    *(NAME(unaligned) *)(room + s) = score;
  }
  for (long s = 0; s < p->samples; ++s) {
    if (count == NEAREST && room[s] <= best[count - 1]) continue;
    const long tile = p->sample_tiles[s];
    int place = 0;
    for (int n = 0; n < count; ++n) place += tiles[n] == tile;
    if (place) continue;
    for (place = count < NEAREST ? count++ : count - 1; place > 0 && best[place - 1] < room[s]; --place)
      best[place] = best[place - 1], tiles[place] = tiles[place - 1];
    best[place] = room[s], tiles[place] = tile;
  }
  return count;
}

static TARGET void NAME(sum)(const void *problem, long begin, long end) {
  const TYPED(problem) *p = problem;
  const int D = p->dimension, V = p->channels;
  const long stride = D + 1 + V;
  NAME(sums) sums;
  NAME(view) view;
  VECTOR x[MOST_DIMENSIONS][VECTORS];
  long places[2 * TILE];  // of columns that matter, until they are enough
  REAL *const room = malloc(sizeof(REAL) * (p->tile_places + p->sample_places));
  const int all = p->margin <= 0 || !room;
  for (long first = begin; first < end; first += ROWS) {
    for (int k = 0; k < ROWS; ++k) {
      const long place = first + k < end ? first + k : end - 1, i = p->row_order ? p->row_order[place] : place;
      for (int d = 0; d < D; ++d) ROW(x[d], k) = p->x[i * D + d] * p->unit;
    }
    NAME(start)(p, D, (GROUP)x, all, &sums);
    if (all) {
      for (long t = 0; t < p->tiles; ++t)
        NAME(add)(D, V, (GROUP)x, p->panel + t * TILE * stride, p->whole + t * TILE, &sums);
    } else {
      long nearest[NEAREST];
      const int known = NAME(nearest)(p, D, (GROUP)x, room, nearest);
      for (int n = 0; n < known; ++n)
        NAME(add)(D, V, (GROUP)x, p->panel + nearest[n] * TILE * stride, p->whole + nearest[n] * TILE, &sums);
      NAME(look)(p, D, (GROUP)x, nearest, known, &sums, &view);
      NAME(bounds)(p, &view, room);
      for (int n = 0; n < known; ++n) room[nearest[n]] = ABSENT;
      int count = 0;
      for (long t = 0; t < p->tiles; ++t) {
        if (room[t] < view.least) continue;
        count += D == 3 ? NAME(wanted)(p, &view, 3, t, places + count) : NAME(wanted)(p, &view, D, t, places + count);
        if (count >= TILE) {
          NAME(add_some)(p, (GROUP)x, places, TILE, &sums);
          count -= TILE;
          memcpy(places, places + TILE, sizeof(long) * count);
        }
      }
      if (count) NAME(add_some)(p, (GROUP)x, places, count, &sums);
    }
    for (int k = 0; k < ROWS && first + k < end; ++k) {
      const long i = p->row_order ? p->row_order[first + k] : first + k;
      p->log_sum[i] = (sums.base + ROW(sums.reference, k) + log2(sums.total[k])) * LOG_2;
      for (int v = 0; v < V; ++v) p->mean[i * V + v] = (REAL)(sums.values[v][k] / sums.total[k]);
    }
  }
  free(room);
}

#include "mixed.h"

#undef VECTORS
#undef AT_ONCE
#undef ROWS
#undef VECTOR
#undef INTEGERS
#undef GROUP
#undef INLINE
#undef ROW
#undef LOAD
#undef SET
#undef TARGET
#undef LANES
#undef VMAX
#undef VMIN
#undef WHERE
