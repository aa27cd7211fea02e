// Pairs of points within a radius: found strip by strip, a few columns at a time. Included by library.c.
//
// Columns lie in strips along their widest axis, in the order of that coordinate. Strips are not narrower than the radius:
// those near a row are the nine around it (across one axis three, across none one), and in each of them the columns near
// it follow one another.

#define FEW 32  // pairs of a row that are kept when they are counted

typedef int64_t four_words __attribute__((vector_size(32)));

typedef struct {
  const float *x;
  const float *axes;       // (dimension, places): columns, strip by strip, eight more places at the end
  const int64_t *columns;  // which one is in each place
  const int64_t *first;    // first place of each strip, and the number of places
  double low[2], width;    // of the strips, across their two axes
  int64_t across[2], counts[2], along;  // those axes and the numbers of strips; the axis along them
  int64_t dimension, places;
  float radius, limit;  // the radius, and its square
  int64_t *starts;      // of each row: how many pairs, or where they are written
  int32_t *few;         // (rows, FEW): the columns and
  float *few_squared;   // squared distances of rows that have no more
  int32_t *found;       // NULL: pairs are counted
  float *squared;
} near_problem;

// First place from `begin` on whose coordinate is not below a value.
static inline long reach_of(const float *coordinates, long begin, long end, float value) {
  while (begin < end) {
    const long middle = begin + (end - begin) / 2;
    if (coordinates[middle] < value) begin = middle + 1;
    else end = middle;
  }
  return begin;
}

static inline __attribute__((always_inline)) void near_rows(const near_problem *p, long begin, long end) {
  const float *along = p->axes + p->along * p->places;
  for (long i = begin; i < end; ++i) {
    const float *x = p->x + i * p->dimension;
    int32_t *columns = p->few + i * FEW;
    float *squares = p->few_squared + i * FEW;
    int64_t count = 0, room = FEW;
    if (p->found) {
      const int64_t wanted = p->starts[i + 1] - p->starts[i];
      if (wanted <= FEW) {
        memcpy(p->found + p->starts[i], columns, wanted * sizeof *columns);
        memcpy(p->squared + p->starts[i], squares, wanted * sizeof *squares);
        continue;
      }
      columns = p->found + p->starts[i], squares = p->squared + p->starts[i], room = wanted;
    }
    int64_t low[2], high[2];
    int outside = 0;
    for (int s = 0; s < 2; ++s) {
      const double place = p->counts[s] > 1 ? (x[p->across[s]] - p->low[s]) / p->width : 0;
      // also where a number is none
      if (!(place >= -1.5 && place <= p->counts[s] + 1.5)) {
        outside = 1;
        break;
      }
      const int64_t here = (int64_t)floor(place);
      low[s] = here > 0 ? here - 1 : 0;
      high[s] = here + 1 < p->counts[s] ? here + 1 : p->counts[s] - 1;
    }
    // a little farther, for what rounding takes
    const float least = x[p->along] - p->radius * 1.0001f, most = x[p->along] + p->radius * 1.0001f;
    if (!outside)
      for (int64_t a = low[0]; a <= high[0]; ++a)
        for (int64_t b = low[1]; b <= high[1]; ++b) {
          const int64_t *strip = p->first + a * p->counts[1] + b;
          const long last = reach_of(along, strip[0], strip[1], nextafterf(most, INFINITY));
          for (long place = reach_of(along, strip[0], last, least); place < last; place += 8) {
            eight squared = {0};
            for (long d = 0; d < p->dimension; ++d) {
              const eight difference = *(const eight_unaligned *)(p->axes + d * p->places + place) - x[d];
              squared += difference * difference;
            }
            // most groups hold none
            const four_words within = (four_words)(squared <= p->limit);
            if (!(within[0] | within[1] | within[2] | within[3])) continue;
            const long lanes = last - place < 8 ? last - place : 8;
            for (long k = 0; k < lanes; ++k) {
              if (!(squared[k] <= p->limit)) continue;
              if (count < room) columns[count] = (int32_t)p->columns[place + k], squares[count] = squared[k];
              ++count;
            }
          }
        }
    if (!p->found) p->starts[i] = count;
  }
}

static void near_any(const void *problem, long begin, long end) { near_rows(problem, begin, end); }
#ifdef PROCESSOR_CHOOSES
static __attribute__((target("avx2"))) void near_avx2(const void *problem, long begin, long end) {
  near_rows(problem, begin, end);
}
#endif

// Counts the pairs of each row, or writes them: see near_problem.
EXPORT void otreg_near(const near_problem *problem, int64_t rows, int64_t threads) {
  work w = {problem, near_any, rows, 0};
#ifdef PROCESSOR_CHOOSES
  if (level()) w.sum = near_avx2;
#endif
  divide(&w, threads);
}
EXPORT int otreg_near_few(void) { return FEW; }
