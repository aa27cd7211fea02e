// Pairs of points within a radius: found cell by cell, a few columns at a time. Included by library.c.
//
// Columns are put into cells of a grid over their first coordinates (three at most), not narrower than the radius: those
// near a row lie in three neighbouring cells along each axis, and the three along the last axis follow one another.

typedef int64_t four_words __attribute__((vector_size(32)));

typedef struct {
  const float *x;
  const float *axes;       // (dimension, places): columns, cell by cell, eight more places at the end
  const int64_t *columns;  // which one is in each place
  const int64_t *first;    // first place of each cell, and the number of places
  double low[3], cell;
  int64_t dimension, places, counts[3];
  float limit;     // squared radius
  int64_t *starts;  // of each row: how many pairs, or where they are written
  int32_t *found;   // NULL: pairs are only counted
  float *squared;
} near_problem;

static inline __attribute__((always_inline)) void near_rows(const near_problem *p, long begin, long end) {
  const long grid = p->dimension < 3 ? p->dimension : 3;
  for (long i = begin; i < end; ++i) {
    const float *x = p->x + i * p->dimension;
    int64_t low[3] = {0, 0, 0}, high[3] = {0, 0, 0};
    int outside = 0;
    for (long d = 0; d < grid; ++d) {
      const double place = (x[d] - p->low[d]) / p->cell;
      // also where a number is none
      if (!(place >= -1.5 && place <= p->counts[d] + 1.5)) {
        outside = 1;
        break;
      }
      const int64_t here = (int64_t)floor(place);
      low[d] = here > 0 ? here - 1 : 0;
      high[d] = here + 1 < p->counts[d] ? here + 1 : p->counts[d] - 1;
      outside |= low[d] > high[d];
    }
    const int64_t start = p->starts[i];
    int64_t count = 0;
    if (!outside)
      for (int64_t a = low[0]; a <= high[0]; ++a)
        for (int64_t b = low[1]; b <= high[1]; ++b) {
          const int64_t *cells = p->first + (a * p->counts[1] + b) * p->counts[2];
          const long last = cells[high[2] + 1];
          for (long place = cells[low[2]]; place < last; place += 8) {
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
              if (p->found) {
                p->found[start + count] = (int32_t)p->columns[place + k];
                p->squared[start + count] = squared[k];
              }
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
