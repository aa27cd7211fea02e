// The triangle nearest to each point, by a binary tree of boxes along the axes. Included by library.c.
//
// Triangles come in an order in which neighbours are near, LEAF of them in a box. Of two boxes the nearer one is opened first;
// one that is farther than the nearest triangle so far is not opened.

#define LEAF 4
#define DEEPEST 128

typedef struct {
  const double *points;     // (rows, 3)
  const double *triangles;  // (count, 16): a corner, two edges, the part of the second across the first, their products
  const int64_t *names;     // (count): which triangle is in each place
  const double *boxes;      // (2 leaves, 6), lowest and highest corner: node n has the children 2 n and 2 n + 1, the root is 1
  int64_t count, leaves;    // the number of leaves is a power of two; those beyond the last triangle are empty
  double limit, enough;     // squared distances: nothing farther is found, and nothing nearer is looked for
  int64_t *found;           // (rows): -1 where there is nothing
  double *squared;          // (rows): the distances, or the limit
} closest_problem;

static inline double dot(const double *a, const double *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

static inline double ratio(double numerator, double denominator) {
  const double value = denominator > 0 ? numerator / denominator : 0;
  return value < 0 ? 0 : value > 1 ? 1 : value;
}

static inline double left_over(const double *offset, const double *triangle, double v, double w) {
  double sum = 0;
  for (int d = 0; d < 3; ++d) {
    const double part = offset[d] - v * triangle[3 + d] - w * triangle[6 + d];
    sum += part * part;
  }
  return sum;
}

// As _Triangles.closest of otreg/proximity.py, which says why.
static inline double to_triangle(const double *point, const double *t) {
  const double *first = t + 3, *second = t + 6, *across = t + 9, aa = t[12], ab = t[13], bb = t[14], height = t[15];
  const double offset[3] = {point[0] - t[0], point[1] - t[1], point[2] - t[2]};
  const double along_first = dot(offset, first), along_second = dot(offset, second);
  double best = left_over(offset, t, ratio(along_first, aa), 0);
  const double other = left_over(offset, t, 0, ratio(along_second, bb));
  best = other < best ? other : best;
  const double w = ratio((along_second - along_first) - (ab - aa), aa - 2 * ab + bb);
  const double third = left_over(offset, t, 1 - w, w);
  best = third < best ? third : best;
  if (aa > 0 && height > 0) {
    const double w_inside = dot(offset, across) / height, v_inside = (along_first - w_inside * ab) / aa;
    if (v_inside >= 0 && w_inside >= 0 && v_inside + w_inside <= 1) {
      const double inside = left_over(offset, t, v_inside, w_inside);
      best = inside < best ? inside : best;
    }
  }
  return best;
}

// Rounded down by far more than the rounding of these lines, so that it stays a bound.
static inline double to_box(const double *point, const double *box) {
  double sum = 0;
  for (int d = 0; d < 3; ++d) {
    const double below = box[d] - point[d], above = point[d] - box[3 + d];
    const double off = below > 0 ? below : above > 0 ? above : 0;
    sum += off * off;
  }
  return sum * (1 - 1e-12);
}

static void closest_rows(const void *given, long begin, long end) {
  const closest_problem *p = given;
  for (long i = begin; i < end; ++i) {
    const double *point = p->points + 3 * i;
    double best = p->limit, bounds[DEEPEST];
    int64_t found = -1, waiting[DEEPEST];
    int count = 1;
    waiting[0] = 1, bounds[0] = to_box(point, p->boxes + 6);
    while (count) {
      const int64_t node = waiting[--count];
      if (bounds[count] > best) continue;
      if (node < p->leaves) {
        const double first = to_box(point, p->boxes + 12 * node), second = to_box(point, p->boxes + 12 * node + 6);
        const int swap = first < second;
        const double near = swap ? first : second, far = swap ? second : first;
        // the nearer one last, so that it is taken first
        if (far <= best) waiting[count] = 2 * node + swap, bounds[count++] = far;
        if (near <= best) waiting[count] = 2 * node + !swap, bounds[count++] = near;
        continue;
      }
      const int64_t start = (node - p->leaves) * LEAF, stop = start + LEAF < p->count ? start + LEAF : p->count;
      for (int64_t place = start; place < stop; ++place) {
        const double squared = to_triangle(point, p->triangles + 16 * place);
        // of equally near ones the first
        if (squared < best || (squared == best && (found < 0 || p->names[place] < found)))
          best = squared, found = p->names[place];
      }
      if (best <= p->enough) break;
    }
    p->found[i] = found, p->squared[i] = best;
  }
}

EXPORT void otreg_closest(const closest_problem *problem, int64_t rows, int64_t threads) {
  work w = {problem, closest_rows, rows, 0};
  divide(&w, threads);
}
EXPORT int otreg_closest_leaf(void) { return LEAF; }
