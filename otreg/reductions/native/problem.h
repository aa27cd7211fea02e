// One problem of one type, its columns ready to be summed: included by library.c, which defines REAL, TYPED() and ABSENT.
//
// Lengths are in units of a power of 2 near the blur: coordinates keep all their digits, and squares stay in range.

typedef struct {
  const REAL *x;
  const int64_t *row_order;  // row in each place, or NULL
  double constant, margin;
  REAL unit, sharpness;  // a score is the less by sharpness times the squared distance
  long dimension, channels, tiles, tile_places, places, samples, sample_places;  // places: with those that fill registers
  REAL *panel;   // of each column: coordinates, the rest of h, values
  double *whole;  // of each column: the whole part of h, in units of log 2
  REAL *axes, *score;  // the coordinates again, axis by axis, and h less the constant
  REAL *sample;        // the same of some columns
  long *sample_tiles;
  // of each tile, axis by axis: the middle and half the width of its box, and a plane over its h, less the constant:
  // slopes, and height at the middle
  REAL *middle, *half, *slope, *height;
  double *log_sum;
  REAL *mean;
} TYPED(problem);

// Gaussians from wide to narrow, exp2(exponent r²), each also as a power of the one before: of so many squarings (-1: not).
// factors (widths, orders): what each adds to the kernel of each order; order_of (channels).
typedef struct {
  const REAL *x, *y, *values;
  REAL *result;
  int64_t m, channels, widths, orders;
  const REAL *exponents, *factors;
  const int64_t *squarings, *order_of;
} TYPED(mixture);

EXPORT void TYPED(otreg_release)(TYPED(problem) *p) {
  if (!p) return;
  free(p->panel);
  free(p->whole);
  free(p->axes);
  free(p->score);
  free(p->sample);
  free(p->sample_tiles);
  free(p->middle);
  free(p->half);
  free(p->slope);
  free(p->height);
  free(p);
}

// A plane over the log-weights of some columns, close to them: least squares, raised. `system` has room for D (D + 1).
static void TYPED(plane)(
    const REAL *columns, const double *scores, long count, long stride, long D, long t, const TYPED(problem) *p,
    double *system) {
  double mean = 0, most = 0, slope[MOST_DIMENSIONS], *right = system + D * D;
  long present = 0;
  memset(system, 0, sizeof(double) * D * (D + 1));
  memset(slope, 0, sizeof slope);
  for (long k = 0; k < count; ++k)
    if (scores[k] > -1e300) mean += scores[k], ++present;
  p->height[t] = ABSENT;
  for (long d = 0; d < D; ++d) p->slope[d * p->tile_places + t] = 0;
  if (!present) return;
  mean /= present;
  double ridge = 1e-30;
  for (long k = 0; k < count; ++k) {
    if (scores[k] <= -1e300) continue;
    for (long d = 0; d < D; ++d) {
      const double first = columns[k * stride + d] - p->middle[d * p->tile_places + t];
      right[d] += first * (scores[k] - mean);
      for (long e = 0; e <= d; ++e)
        system[d * D + e] += first * (columns[k * stride + e] - p->middle[e * p->tile_places + t]);
      ridge += 1e-4 * first * first;
    }
  }
  // Cholesky, in place; the ridge keeps flat tiles determined
  for (long d = 0; d < D; ++d) {
    for (long e = 0; e <= d; ++e) {
      double sum = system[d * D + e] + (d == e ? ridge : 0);
      for (long k = 0; k < e; ++k) sum -= system[d * D + k] * system[e * D + k];
      system[d * D + e] = d == e ? sqrt(sum > ridge ? sum : ridge) : sum / system[e * D + e];
    }
  }
  for (long d = 0; d < D; ++d) {
    for (long k = 0; k < d; ++k) right[d] -= system[d * D + k] * right[k];
    right[d] /= system[d * D + d];
  }
  for (long d = D - 1; d >= 0; --d) {
    for (long k = d + 1; k < D; ++k) right[d] -= system[k * D + d] * slope[k];
    slope[d] = right[d] / system[d * D + d];
  }
  for (long d = 0; d < D; ++d) slope[d] = p->slope[d * p->tile_places + t] = (REAL)slope[d];
  most = -1e300;
  for (long k = 0; k < count; ++k) {
    double above = scores[k];
    if (above <= -1e300) continue;
    for (long d = 0; d < D; ++d) above -= slope[d] * (columns[k * stride + d] - p->middle[d * p->tile_places + t]);
    most = above > most ? above : most;
  }
  p->height[t] = (REAL)most;
}

// y (m, D), h (m), values (m, V) or NULL; column_order (m) tells the column in each place, or NULL; with a margin, in
// powers of 2, tiles are left out whose columns each add less than that to what a row sums up to. NULL: out of memory.
EXPORT TYPED(problem) *TYPED(otreg_prepare)(
    const REAL *x, const int64_t *row_order, const REAL *y, const double *h, const REAL *values,
    const int64_t *column_order, int64_t m, int64_t dimension, int64_t channels, double eps, double constant,
    double margin, double *log_sum, REAL *mean) {
  TYPED(problem) *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  const long tiles = (m + TILE - 1) / TILE, places = tiles * TILE, tile_places = (tiles + 15) / 16 * 16;
  const long stride = dimension + 1 + channels;
  const long step = m < TILE * TILE ? (m + TILE - 1) / TILE : TILE;
  p->x = x, p->row_order = row_order, p->log_sum = log_sum, p->mean = mean;
  const double unit = exp2(rint(-0.5 * log2(eps)));
  p->unit = (REAL)unit, p->sharpness = (REAL)(1.0 / (2.0 * eps * LOG_2 * unit * unit)), p->margin = margin;
  p->dimension = dimension, p->channels = channels, p->tiles = tiles, p->tile_places = tile_places, p->places = places;
  p->panel = calloc(places * stride, sizeof(REAL));
  p->whole = malloc(places * sizeof(double));
  p->samples = (m - step / 2 + step - 1) / step;
  p->axes = calloc(places * dimension, sizeof(REAL));
  p->score = malloc(places * sizeof(REAL));
  p->sample_places = (p->samples + 15) / 16 * 16;
  p->sample = calloc(p->sample_places * (dimension + 1), sizeof(REAL));
  p->sample_tiles = malloc(p->samples * sizeof(long));
  p->middle = calloc(tile_places * dimension, sizeof(REAL));
  p->half = calloc(tile_places * dimension, sizeof(REAL));
  p->slope = calloc(tile_places * dimension, sizeof(REAL));
  p->height = calloc(tile_places, sizeof(REAL));
  if (!p->panel || !p->whole || !p->axes || !p->score || !p->sample || !p->sample_tiles || !p->middle || !p->half ||
      !p->slope || !p->height) {
    TYPED(otreg_release)(p);
    return NULL;
  }
  p->constant = rint(constant / LOG_2);
  double scores[TILE], system[MOST_DIMENSIONS * (MOST_DIMENSIONS + 1)];
  REAL low[MOST_DIMENSIONS], high[MOST_DIMENSIONS];
  for (long t = 0, s = 0; t < tiles; ++t) {
    const long first = t * TILE, count = m - first < TILE ? m - first : TILE;
    REAL *columns = p->panel + first * stride;
    for (long k = 0; k < TILE; ++k) {
      REAL *column = columns + k * stride;
      p->whole[first + k] = p->score[first + k] = ABSENT;
      if (k >= count) continue;
      const long j = column_order ? column_order[first + k] : first + k;
      const double weight = h[j] / LOG_2;
      const int present = weight > -1e300;
      for (long d = 0; d < dimension; ++d) {
        const REAL value = y[j * dimension + d] * p->unit;
        column[d] = p->axes[d * places + first + k] = value;
        low[d] = k && low[d] < value ? low[d] : value;
        high[d] = k && high[d] > value ? high[d] : value;
      }
      if (present) {
        p->whole[first + k] = rint(weight);
        column[dimension] = (REAL)(weight - p->whole[first + k]);
        p->score[first + k] = (REAL)(weight - p->constant);
      }
      for (long v = 0; v < channels; ++v) column[dimension + 1 + v] = values[j * channels + v];
      scores[k] = present ? weight - p->constant : -INFINITY;
      if ((first + k - step / 2) % step == 0 && s < p->samples) {
        for (long d = 0; d < dimension; ++d) p->sample[d * p->sample_places + s] = column[d];
        p->sample[dimension * p->sample_places + s] = p->score[first + k];
        p->sample_tiles[s++] = t;
      }
    }
    for (long d = 0; d < dimension; ++d) {
      p->middle[d * tile_places + t] = (low[d] + high[d]) / 2;
      p->half[d * tile_places + t] = (high[d] - low[d]) / 2 * (1 + SLACK);
    }
    if (margin > 0) TYPED(plane)(columns, scores, count, stride, dimension, t, p, system);
  }
  return p;
}
