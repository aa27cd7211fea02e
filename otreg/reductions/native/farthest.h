// Points that are each the farthest from those before them. Included by library.c.
//
// Points come in an order in which neighbours are near, BLOCK of them in a box: a new point is looked at by those blocks
// alone whose box lies nearer to it than one of their points to those before. Compiled without fused multiplications, so
// that the points chosen are those that NumPy would choose.

#define BLOCK 64

typedef float eight __attribute__((vector_size(32)));
typedef int32_t eight_places __attribute__((vector_size(32)));
typedef eight eight_unaligned __attribute__((aligned(4), may_alias));

// Lowers the distances of a block to a new point; the largest of them, and the first of the points so far away.
static inline __attribute__((always_inline)) void lower(
    const float *axes, long places, long dimension, float *nearest, const int64_t *order, const float *point, long begin,
    float *most, int64_t *which) {
  eight largest = (eight){0} - 2;
  for (long place = begin; place < begin + BLOCK; place += 8) {
    eight here = *(const eight_unaligned *)(nearest + place), squared = {0};
    for (long d = 0; d < dimension; ++d) {
      const eight difference = *(const eight_unaligned *)(axes + d * places + place) - point[d];
      squared += difference * difference;
    }
    const eight_places nearer = squared < here;
    here = (eight)(((eight_places)squared & nearer) | ((eight_places)here & ~nearer));
    *(eight_unaligned *)(nearest + place) = here;
    const eight_places more = here > largest;
    largest = (eight)(((eight_places)here & more) | ((eight_places)largest & ~more));
  }
  float best = largest[0];
  for (int k = 1; k < 8; ++k) best = largest[k] > best ? largest[k] : best;
  int64_t found = INT64_MAX;
  for (long place = begin; place < begin + BLOCK; ++place)
    if (nearest[place] == best && order[place] < found) found = order[place];
  *most = best, *which = found;
}

// boxes: (2 dimension, blocks rounded up to 8), lowest and highest coordinates; of what is beyond the last block, empty.
static inline __attribute__((always_inline)) void choose(
    const float *axes, long places, long dimension, float *nearest, const int64_t *order, const int64_t *place_of,
    long wanted, int64_t *chosen, const float *boxes, float *most, int64_t *which) {
  const long blocks = places / BLOCK, stride = (blocks + 7) / 8 * 8;
  float point[MOST_DIMENSIONS];
  for (long n = 1; n < wanted; ++n) {
    for (long d = 0; d < dimension; ++d) point[d] = axes[d * places + place_of[chosen[n - 1]]];
    float best = -2;
    int64_t found = INT64_MAX;
    for (long block = 0; block < stride; block += 8) {
      eight squared = {0};
      for (long d = 0; d < dimension; ++d) {
        const eight below = *(const eight_unaligned *)(boxes + 2 * d * stride + block) - point[d];
        const eight above = point[d] - *(const eight_unaligned *)(boxes + (2 * d + 1) * stride + block);
        const eight_places under = below > 0, over = above > 0;
        const eight off = (eight)(((eight_places)below & under) | ((eight_places)above & over));
        squared += off * off;
      }
      // rounding could place a point below its box
      const eight_places near = squared * 0.9999f < *(const eight_unaligned *)(most + block);
      for (int k = 0; k < 8 && block + k < blocks; ++k) {
        const long b = block + k;
        if (near[k]) lower(axes, places, dimension, nearest, order, point, b * BLOCK, most + b, which + b);
        if (most[b] > best || (most[b] == best && which[b] < found)) best = most[b], found = which[b];
      }
    }
    chosen[n] = found;
  }
}

#ifdef PROCESSOR_CHOOSES
static __attribute__((target("avx2"))) void choose_avx2(
    const float *axes, long places, long dimension, float *nearest, const int64_t *order, const int64_t *place_of,
    long wanted, int64_t *chosen, const float *boxes, float *most, int64_t *which) {
  choose(axes, places, dimension, nearest, order, place_of, wanted, chosen, boxes, most, which);
}
#endif

// axes (D, places), places a multiple of BLOCK; nearest (places) at infinity, and at -1 where there is no point; order
// (places): which point is in each place, and place_of (points) the reverse; the first of the chosen (wanted) is given. Of
// equally far ones the first is taken. False: out of memory.
EXPORT int otreg_farthest(
    const float *axes, int64_t places, int64_t dimension, float *nearest, const int64_t *order, const int64_t *place_of,
    int64_t wanted, int64_t *chosen) {
  const long blocks = places / BLOCK, stride = (blocks + 7) / 8 * 8;
  float *boxes = calloc(2 * dimension * stride, sizeof(float)), *most = malloc(stride * sizeof(float));
  int64_t *which = malloc(stride * sizeof(int64_t));
  const int room = boxes && most && which;
  if (room) {
    for (long b = 0; b < stride; ++b) most[b] = b < blocks ? INFINITY : -2, which[b] = INT64_MAX;
    for (long b = 0; b < blocks; ++b)
      for (long d = 0; d < dimension; ++d) {
        float low = INFINITY, high = -INFINITY;
        for (long place = b * BLOCK; place < (b + 1) * BLOCK; ++place) {
          if (nearest[place] < 0) continue;
          const float value = axes[d * places + place];
          low = value < low ? value : low, high = value > high ? value : high;
        }
        boxes[2 * d * stride + b] = low, boxes[(2 * d + 1) * stride + b] = high;
      }
#ifdef PROCESSOR_CHOOSES
    if (level())
      choose_avx2(axes, places, dimension, nearest, order, place_of, wanted, chosen, boxes, most, which);
    else
#endif
      choose(axes, places, dimension, nearest, order, place_of, wanted, chosen, boxes, most, which);
  }
  free(boxes);
  free(most);
  free(which);
  return room;
}
