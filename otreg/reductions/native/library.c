// The sums over all pairs, and the choices of points, that the package makes on a CPU: what otreg/reductions/library.py loads.
// No pair is ever stored.
//
// Plain C with the vector types of GCC and Clang, no header of Python: built when the package is installed, where there is
// a compiler. The sums (rows.h, mixed.h) are compiled once for each type and each set of instructions; the processor
// decides which is run.

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_DIMENSIONS 16
#define MOST_CHANNELS 64
#define MOST_ORDERS 4
#define TILE 64                // columns whose bounds are looked at together
#define SHARE 256              // rows that a thread takes at a time, a multiple of any group of rows
#define MOST_THREADS 256
#define SMALLEST 16            // points in an order that need no order among them
#define NEAREST 4              // tiles that are summed first
#define CHUNK 16               // columns between two looks at the references
#define LIMIT 1099511627776.0  // 2 to the 40
#define LOG_2 0.693147180559945309417
#define PASTE(a, b) a##_##b
#define JOIN(a, b) PASTE(a, b)
#define NAME(name) JOIN(TYPED(name), SET)

// What Python looks for in a module: there is nothing for it here.
EXPORT void *PyInit__library(void) { return NULL; }
EXPORT int otreg_most_dimensions(void) { return MOST_DIMENSIONS; }
EXPORT int otreg_most_channels(void) { return MOST_CHANNELS; }
EXPORT int otreg_most_orders(void) { return MOST_ORDERS; }
EXPORT int otreg_unordered(void) { return SMALLEST; }

// defined from outside: only what any processor can run
#if !defined(OTREG_PLAIN) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>
#define PROCESSOR_CHOOSES 1
#endif

// ---- float
#define REAL float
#define INTEGER int32_t
#define TYPED(name) name##_f32
#define ABSENT -1.7e38f
#define MANTISSA 23
#define MAGIC 12582912.0f
#define LOWEST -126.0f
#define HIGHEST 126.0f
#define NOTHING -1e30f
#define ROUND rintf
#define SLACK 1e-6f
// 2^f on [-1/2, 1/2], of least relative error, 1 at 0: within 9e-8
#define DEGREE 5
static const float COEFFICIENTS_f32[] = {0.69314697758522805612f, 0.24022242066381334619f, 0.055507337440232809528f,
                                         0.0096715134738943216301f, 0.0013264730385340681644f};
#define COEFFICIENTS COEFFICIENTS_f32
#include "order.h"
#include "problem.h"

#ifdef PROCESSOR_CHOOSES
#define SET avx512
#define TARGET __attribute__((target("avx512f")))
#define LANES 16
#define VMAX _mm512_max_ps
#define VMIN _mm512_min_ps
#define WHERE(values, limit) _mm512_cmp_ps_mask(values, _mm512_set1_ps(limit), _CMP_GE_OQ)
#include "rows.h"
#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define VMAX _mm256_max_ps
#define VMIN _mm256_min_ps
#define WHERE(values, limit) _mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_set1_ps(limit), _CMP_GE_OQ))
#include "rows.h"
#endif
#define SET any
#define TARGET
#define LANES 4
#include "rows.h"

#undef REAL
#undef INTEGER
#undef TYPED
#undef ABSENT
#undef MANTISSA
#undef MAGIC
#undef LOWEST
#undef HIGHEST
#undef NOTHING
#undef ROUND
#undef SLACK
#undef DEGREE
#undef COEFFICIENTS

// ---- double
#define REAL double
#define INTEGER int64_t
#define TYPED(name) name##_f64
#define ABSENT -1e300
#define MANTISSA 52
#define MAGIC 6755399441055744.0
#define LOWEST -1022.0
#define HIGHEST 1022.0
#define NOTHING -1e100
#define ROUND rint
#define SLACK 1e-14
// within 3e-18
#define DEGREE 11
static const double COEFFICIENTS_f64[] = {
    0.69314718055994532552,   0.24022650695910131247,    0.055504108664820114253,   0.0096181291075941371838,
    0.0013333558146766821271, 0.00015403530457080230223, 0.00001525273350067215299, 1.3215435301680803869e-6,
    1.017819645981982083e-7,  7.0737795156014909833e-9,  4.4352320161851440047e-10};
#define COEFFICIENTS COEFFICIENTS_f64
#include "order.h"
#include "problem.h"

#ifdef PROCESSOR_CHOOSES
#define SET avx512
#define TARGET __attribute__((target("avx512f")))
#define LANES 8
#define VMAX _mm512_max_pd
#define VMIN _mm512_min_pd
#define WHERE(values, limit) _mm512_cmp_pd_mask(values, _mm512_set1_pd(limit), _CMP_GE_OQ)
#include "rows.h"
#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 4
#define VMAX _mm256_max_pd
#define VMIN _mm256_min_pd
#define WHERE(values, limit) _mm256_movemask_pd(_mm256_cmp_pd(values, _mm256_set1_pd(limit), _CMP_GE_OQ))
#include "rows.h"
#endif
#define SET any
#define TARGET
#define LANES 2
#include "rows.h"

static int level(void) {
#ifdef PROCESSOR_CHOOSES
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return 2;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 0;
#endif
}

// Rows of a problem dealt out to threads, SHARE at a time to whoever is free.
typedef struct {
  const void *problem;
  void (*sum)(const void *problem, long begin, long end);
  long end, next;
} work;

static void *take(void *given) {
  work *w = given;
  for (;;) {
    const long begin = __atomic_fetch_add(&w->next, SHARE, __ATOMIC_RELAXED);
    if (begin >= w->end) return NULL;
    w->sum(w->problem, begin, begin + SHARE < w->end ? begin + SHARE : w->end);
  }
}

static void divide(work *w, long threads) {
  pthread_t others[MOST_THREADS];
  long count = 0;
  if (threads > MOST_THREADS) threads = MOST_THREADS;
  while (count < threads - 1 && !pthread_create(&others[count], NULL, take, w)) ++count;
  take(w);
  while (count) pthread_join(others[--count], NULL);
}

#ifdef PROCESSOR_CHOOSES
#define VERSION(type)                                                                                         \
  level() == 2 ? sum_##type##_avx512 : level() == 1 ? sum_##type##_avx2 : sum_##type##_any
#else
#define VERSION(type) sum_##type##_any
#endif

// Rows begin to end, in their order, on so many threads. A row's sum does not depend on which thread takes it.
EXPORT void otreg_sum_f32(const problem_f32 *problem, int64_t begin, int64_t end, int64_t threads) {
  work w = {problem, VERSION(f32), end, begin};
  divide(&w, threads);
}
EXPORT void otreg_sum_f64(const problem_f64 *problem, int64_t begin, int64_t end, int64_t threads) {
  work w = {problem, VERSION(f64), end, begin};
  divide(&w, threads);
}

#ifdef PROCESSOR_CHOOSES
#define MIX(type) level() == 2 ? mix_##type##_avx512 : level() == 1 ? mix_##type##_avx2 : mix_##type##_any
#else
#define MIX(type) mix_##type##_any
#endif

// x (n, 3), y (m, 3), values (m, channels), result (n, channels).
EXPORT void otreg_mix_f32(const mixture_f32 *mixture, int64_t rows, int64_t threads) {
  work w = {mixture, MIX(f32), rows, 0};
  divide(&w, threads);
}
EXPORT void otreg_mix_f64(const mixture_f64 *mixture, int64_t rows, int64_t threads) {
  work w = {mixture, MIX(f64), rows, 0};
  divide(&w, threads);
}

#include "closest.h"
#include "farthest.h"
#include "near.h"
