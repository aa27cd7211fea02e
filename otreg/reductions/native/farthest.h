// Points that are each the farthest from those before them. Included by library.c.
//
// Compiled without fused multiplications, so that the points chosen are those that NumPy would choose.

typedef float eight __attribute__((vector_size(32)));
typedef int32_t eight_places __attribute__((vector_size(32)));
typedef eight eight_unaligned __attribute__((aligned(4), may_alias));

static inline __attribute__((always_inline)) void choose(
    const float *axes, long places, long dimension, float *nearest, long wanted, int64_t *chosen) {
  const eight_places ramp = {0, 1, 2, 3, 4, 5, 6, 7};
  for (long n = 1; n < wanted; ++n) {
    eight most = (eight){0} - 2;
    eight_places where = {0};
    for (long place = 0; place < places; place += 8) {
      eight here = *(const eight_unaligned *)(nearest + place), squared = {0};
      for (long d = 0; d < dimension; ++d) {
        const eight there = *(const eight_unaligned *)(axes + d * places + place);
        const eight difference = there - axes[d * places + chosen[n - 1]];
        squared += difference * difference;
      }
      const eight_places nearer = squared < here;
      here = (eight)(((eight_places)squared & nearer) | ((eight_places)here & ~nearer));
      *(eight_unaligned *)(nearest + place) = here;
      const eight_places better = here > most;
      where = ((ramp + (int32_t)place) & better) | (where & ~better);
      most = (eight)(((eight_places)here & better) | ((eight_places)most & ~better));
    }
    float best = most[0];
    int64_t found = where[0];
    for (int k = 1; k < 8; ++k)
      if (most[k] > best || (most[k] == best && where[k] < found)) best = most[k], found = where[k];
    chosen[n] = found;
  }
}

#ifdef PROCESSOR_CHOOSES
static __attribute__((target("avx2"))) void choose_avx2(
    const float *axes, long places, long dimension, float *nearest, long wanted, int64_t *chosen) {
  choose(axes, places, dimension, nearest, wanted, chosen);
}
#endif

// axes (D, places), places a multiple of 8; nearest (places) at infinity, and at -1 where there is no point; the first of
// the chosen (wanted) is given. Of equally far ones the first is taken.
EXPORT void otreg_farthest(
    const float *axes, int64_t places, int64_t dimension, float *nearest, int64_t wanted, int64_t *chosen) {
#ifdef PROCESSOR_CHOOSES
  if (level()) {
    choose_avx2(axes, places, dimension, nearest, wanted, chosen);
    return;
  }
#endif
  choose(axes, places, dimension, nearest, wanted, chosen);
}
