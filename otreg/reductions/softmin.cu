// Log-sum-exp and weighted means over all pairs: what otreg/reductions/cuda.py compiles for one dimension D, one number
// of channels V, one type. No pair is ever stored.
//
// A thread holds ROWS rows; the columns come by in tiles of shared memory. Scores h_j - |x_i - y_j|²/(2 eps) are taken in
// units of log 2, against a reference of each row, a whole number, which moves only where a sum exceeds it by LIMIT:
// rarely, since the first comes from a sample of the columns.
//
// As it is, squares are taken of differences, so that nothing cancels, however far the points lie from the origin and
// from each other; h is cut into a whole part and a rest: (whole - reference) is exact however large the potentials
// are, and 32 bits keep their precision for the rest. With LOCAL, rows and columns come in the order of a tree, and
// squares are expanded about the centre of each tile: half the work, and exact enough while tiles are small.

#ifdef DOUBLE
typedef double real;
typedef double2 vector;
#define WIDE 2
__device__ __forceinline__ real power(real s) { return exp2(s); }
#else
typedef float real;
typedef float4 vector;
#define WIDE 4
__device__ __forceinline__ real power(real s) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(s));
  return value;
}
#endif

#ifndef INFINITE
#define INFINITE __longlong_as_double(0x7ff0000000000000ll)
#endif
#define PER_LOG2 1.44269504088896340736  // 1 / log 2
#define NOTHING ((real)-1e30)
#define LIMIT ((real)1099511627776)  // 2 to the 40
#define CHUNK (V > 1 ? 8 : 16)
#define FIRST_LOOK 64  // columns that the first references come from, at least
// a column in shared memory: D coordinates, what stands for h (rest and whole part), V values
#ifdef LOCAL
#define HEAD (D + 1)
#else
#define HEAD (D + 2)
#endif
#define COLUMN ((HEAD + V + WIDE - 1) / WIDE * WIDE)
#define PARTIAL (3 + V)

union Column {
  vector parts[COLUMN / WIDE];
  real entries[COLUMN];
};

__device__ __forceinline__ real squared_distance(const real* row, const real* column) {
  real squared = 0;
#pragma unroll
  for (int d = 0; d < D; ++d) {
    const real difference = row[d] - column[d];
    squared = d ? fma(difference, difference, squared) : difference * difference;
  }
  return squared;
}

// Whether no column of a tile matters to a group of rows: the highest score that boxes and weights allow, against the
// least that the rows are known to sum up to.
__device__ __forceinline__ bool negligible(
    const real* box, const real* tile_box, double highest, double floor, double sharpness, double margin) {
  highest *= PER_LOG2;
  floor *= PER_LOG2;
  double squared = 0;
#pragma unroll
  for (int d = 0; d < D; ++d) {
    double gap = fmax(0.0, fmax((double)tile_box[d] - box[D + d], (double)box[d] - tile_box[D + d]));
    squared += gap * gap;
  }
  return highest - sharpness * squared < floor - margin;
}

// x (n, D), y (m, D), h (m), values (m, V), shift (1) the largest h, sharpness 1 / (2 eps log 2); a block sums `tiles`
// tiles of columns for its rows. order (m), where given, tells the place of each column in h and values.
// partial (splits, n, 3 + V): two parts of the reference, sum and weighted sums of each row.
// tile_boxes, for LOCAL: low and high corners. With CULL those of each warp's rows too, the largest h of each tile, and
// a lower bound of the log-sums of each row and of each warp tell which tiles may be left out.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) reduce(
    const real* __restrict__ x, const real* __restrict__ y, const double* __restrict__ h,
    const double* __restrict__ shift, const real* __restrict__ values, const int* __restrict__ order, int n, int m,
    int tiles, double sharpness, real* __restrict__ partial, const real* __restrict__ tile_boxes,
    const real* __restrict__ row_boxes, const double* __restrict__ tile_highest, const double* __restrict__ row_floors,
    const double* __restrict__ row_least, double margin) {
  __shared__ Column shared[TILE];
  __shared__ real base;
#ifdef CULL
  __shared__ unsigned char wanted[FLAGS];
#endif
  const int warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  const int first = warp * 32 * ROWS + threadIdx.x % 32;
  const real sharp = (real)sharpness;
  const double constant = *shift > -1e300 ? *shift : 0;
  real row[ROWS][D], reference[ROWS], total[ROWS];
#if V > 0
  real sums[ROWS][V];
#endif
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int i = min(first + 32 * r, n - 1);
#pragma unroll
    for (int d = 0; d < D; ++d) row[r][d] = x[(size_t)i * D + d];
    reference[r] = NOTHING;
    total[r] = 0;
#if V > 0
#pragma unroll
    for (int c = 0; c < V; ++c) sums[r][c] = 0;
#endif
  }

  const int last_tile = (m + TILE - 1) / TILE;
  const int begin = blockIdx.y * tiles, end = min(begin + tiles, last_tile);
#ifdef CULL
  const int groups = (n + 32 * ROWS - 1) / (32 * ROWS);
  for (int t = begin + threadIdx.x; t < end; t += THREADS) {
    bool any = false;
    for (int w = 0; w < THREADS / 32 && !any; ++w) {
      const int group = blockIdx.x * (THREADS / 32) + w;
      any = group < groups && !negligible(row_boxes + (size_t)group * 2 * D, tile_boxes + (size_t)t * 2 * D,
                                          tile_highest[t], row_floors[group], sharpness, margin);
    }
    wanted[t - begin] = any;
  }
  // what one column of each tile sums up to is less than all, and not much
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const double least = row_least[min(first + 32 * r, n - 1)];
    if (least > -1e300) reference[r] = (real)rint((least - constant) * PER_LOG2);
  }
#else
  // a sample of all columns, also of those that other blocks sum: here, too, what lies far below them does not matter
  const int looked_at = min(min(max(FIRST_LOOK, 16 * (end - begin)), TILE), m);
  for (int k = threadIdx.x; k < looked_at; k += THREADS) {
    const int place = (int)((long long)k * m / looked_at);
#pragma unroll
    for (int d = 0; d < D; ++d) shared[k].entries[d] = y[(size_t)place * D + d];
    shared[k].entries[D] = (real)((h[order ? order[place] : place] - constant) * PER_LOG2);
  }
  __syncthreads();
#pragma unroll 4
  for (int k = 0; k < looked_at; ++k) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      reference[r] =
          max(reference[r], fma(-sharp, squared_distance(row[r], shared[k].entries), shared[k].entries[D]));
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) reference[r] = rint(reference[r]);
#endif
  // all references of a block count from that of its first row: near rows have near ones
  if (threadIdx.x == 0) base = reference[0] > NOTHING ? reference[0] : (real)0;
  __syncthreads();
  const real base_here = base;
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (reference[r] > NOTHING) reference[r] -= base_here;

  for (int t = begin; t < end; ++t) {
#ifdef CULL
    if (!wanted[t - begin]) continue;
#endif
    __syncthreads();
#ifdef LOCAL
    real centre[D];
#pragma unroll
    for (int d = 0; d < D; ++d)
      centre[d] = (real)0.5 * (tile_boxes[((size_t)2 * t) * D + d] + tile_boxes[((size_t)2 * t + 1) * D + d]);
#endif
    for (int k = threadIdx.x; k < TILE; k += THREADS) {
      const int j = t * TILE + k;
      Column column;
#pragma unroll
      for (int e = 0; e < COLUMN; ++e) column.entries[e] = 0;
      column.entries[HEAD - 1] = -INFINITE;
      const int place = j < m ? (order ? order[j] : j) : 0;
      if (j < m && h[place] > -1e300) {
        const double log_weight = (h[place] - constant) * PER_LOG2 - base_here;
#ifdef LOCAL
        double squared = 0;
#pragma unroll
        for (int d = 0; d < D; ++d) {
          column.entries[d] = y[(size_t)j * D + d] - centre[d];
          squared += (double)column.entries[d] * column.entries[d];
        }
        column.entries[D] = (real)(log_weight - sharpness * squared);
#else
        const real whole = (real)rint(log_weight);
#pragma unroll
        for (int d = 0; d < D; ++d) column.entries[d] = y[(size_t)j * D + d];
        column.entries[D] = (real)(log_weight - (double)whole);
        column.entries[D + 1] = whole;
#endif
#if V > 0
#pragma unroll
        for (int c = 0; c < V; ++c) column.entries[HEAD + c] = values[(size_t)place * V + c];
#endif
      }
#pragma unroll
      for (int e = 0; e < COLUMN / WIDE; ++e) shared[k].parts[e] = column.parts[e];
    }
    __syncthreads();
#ifdef CULL
    // of the tiles that the block wants, each warp sums its own
    if (warp >= groups || negligible(row_boxes + (size_t)warp * 2 * D, tile_boxes + (size_t)t * 2 * D, tile_highest[t],
                                     row_floors[warp], sharpness, margin))
      continue;
#endif

    // own(r) is what of a score belongs to the row alone; score() adds it, less a reference
#ifdef LOCAL
    real slope[ROWS][D];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int d = 0; d < D; ++d) slope[r][d] = 2 * sharp * (row[r][d] - centre[d]);
    auto own = [&](int r) { return -sharp * squared_distance(row[r], centre); };
    auto score = [&](int r, const real* column, real own_less_reference) {
      real sum = column[D];
#pragma unroll
      for (int d = 0; d < D; ++d) sum = fma(slope[r][d], column[d], sum);
      return sum + own_less_reference;
    };
#else
    auto own = [&](int r) { return (real)0; };
    auto score = [&](int r, const real* column, real own_less_reference) {
      return fma(-sharp, squared_distance(row[r], column), column[D]) + (column[D + 1] + own_less_reference);
    };
#endif
    // a tile is summed by itself first: sums of a million terms, one by one, would lose digits
    real part[ROWS], offsets[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      part[r] = 0;
      offsets[r] = own(r) - reference[r];
    }
#if V > 0
    real part_sums[ROWS][V];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int c = 0; c < V; ++c) part_sums[r][c] = 0;
#endif
#pragma unroll 1
    for (int start = 0; start < TILE; start += CHUNK) {
      real chunk[ROWS], largest = 0;
#if V > 0
      real chunk_sums[ROWS][V];
#endif
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        chunk[r] = 0;
#if V > 0
#pragma unroll
        for (int c = 0; c < V; ++c) chunk_sums[r][c] = 0;
#endif
      }
#pragma unroll
      for (int k = 0; k < CHUNK; ++k) {
        Column column;
#pragma unroll
        for (int e = 0; e < COLUMN / WIDE; ++e) column.parts[e] = shared[start + k].parts[e];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          const real weight = power(score(r, column.entries, offsets[r]));
          chunk[r] += weight;
#if V > 0
#pragma unroll
          for (int c = 0; c < V; ++c) chunk_sums[r][c] = fma(weight, column.entries[HEAD + c], chunk_sums[r][c]);
#endif
        }
      }
#pragma unroll
      for (int r = 0; r < ROWS; ++r) largest = max(largest, chunk[r]);
      if (largest > LIMIT) {
        // far above a reference, or none was known: these columns are summed again, with a better one
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          if (chunk[r] > LIMIT) {
            real highest = -INFINITE;
#pragma unroll 4
            for (int k = 0; k < CHUNK; ++k) highest = max(highest, score(r, shared[start + k].entries, own(r)));
            const real next = rint(highest), shrink = power(reference[r] - next);
            reference[r] = next;
            offsets[r] = own(r) - next;
            total[r] *= shrink;
            part[r] *= shrink;
            chunk[r] = 0;
#if V > 0
#pragma unroll
            for (int c = 0; c < V; ++c) {
              sums[r][c] *= shrink;
              part_sums[r][c] *= shrink;
              chunk_sums[r][c] = 0;
            }
#endif
#pragma unroll 4
            for (int k = 0; k < CHUNK; ++k) {
              const real* column = shared[start + k].entries;
              const real weight = power(score(r, column, offsets[r]));
              chunk[r] += weight;
#if V > 0
#pragma unroll
              for (int c = 0; c < V; ++c) chunk_sums[r][c] = fma(weight, column[HEAD + c], chunk_sums[r][c]);
#endif
            }
          }
        }
      }
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        part[r] += chunk[r];
#if V > 0
#pragma unroll
        for (int c = 0; c < V; ++c) part_sums[r][c] += chunk_sums[r][c];
#endif
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      total[r] += part[r];
#if V > 0
#pragma unroll
      for (int c = 0; c < V; ++c) sums[r][c] += part_sums[r][c];
#endif
    }
  }

#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int i = first + 32 * r;
    if (i >= n) continue;
    real* out = partial + ((size_t)blockIdx.y * n + i) * PARTIAL;
    out[0] = base_here;
    out[1] = reference[r];
    out[2] = total[r];
#if V > 0
#pragma unroll
    for (int c = 0; c < V; ++c) out[3 + c] = sums[r][c];
#endif
  }
}

// Puts the parts of all splits together: log_sum (n), mean (n, V), each row in its place of `order`, where given.
extern "C" __global__ void __launch_bounds__(THREADS) combine(
    const real* __restrict__ partial, const double* __restrict__ shift, const int* __restrict__ order, int n, int splits,
    double* __restrict__ log_sum, real* __restrict__ mean) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  double best = -1e300;
  for (int split = 0; split < splits; ++split) {
    const real* part = partial + ((size_t)split * n + i) * PARTIAL;
    if (part[2] > 0) best = max(best, (double)part[0] + part[1]);
  }
  double total = 0;
#if V > 0
  double sums[V];
#pragma unroll
  for (int c = 0; c < V; ++c) sums[c] = 0;
#endif
  for (int split = 0; split < splits; ++split) {
    const real* part = partial + ((size_t)split * n + i) * PARTIAL;
    if (!(part[2] > 0)) continue;
    const double share = exp2((double)part[0] + part[1] - best);
    total += share * part[2];
#if V > 0
#pragma unroll
    for (int c = 0; c < V; ++c) sums[c] += share * part[3 + c];
#endif
  }
  const int place = order ? order[i] : i;
  log_sum[place] = total > 0 ? (best + log2(total)) / PER_LOG2 + *shift : -INFINITE;
#if V > 0
#pragma unroll
  for (int c = 0; c < V; ++c) mean[(size_t)place * V + c] = total > 0 ? (real)(sums[c] / total) : (real)0;
#endif
}
