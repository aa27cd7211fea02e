// Sums of kernels that are mixtures of Gaussians, Σ_j K_o(|x_i - y_j|²) v_j in 3-D: included by rows.h for each
// type and each set of instructions. Layout of rows and columns as there.

// 2^s for s up to 0; exactly 0 where it would be below the smallest normal number.
INLINE VECTOR NAME(power)(VECTOR s) {
  const INTEGERS counts = (INTEGERS)(s >= LOWEST);
  s = VMAX(s, NAME(spread)(LOWEST));
  const VECTOR rounded = s + MAGIC;
  s -= rounded - MAGIC;
  VECTOR p = s * COEFFICIENTS[DEGREE - 1] + COEFFICIENTS[DEGREE - 2];
#pragma GCC unroll 16
  for (int e = DEGREE - 3; e >= 0; --e) p = p * s + COEFFICIENTS[e];
  p = p * s + 1;
  return (VECTOR)(((INTEGERS)p + ((INTEGERS)rounded << MANTISSA)) & counts);
}

static TARGET void NAME(mix)(const void *given, long begin, long end) {
  const TYPED(mixture) *p = given;
  for (long first = begin; first < end; first += ROWS) {
    VECTOR x[3][VECTORS], sums[MOST_CHANNELS][VECTORS];
    for (int k = 0; k < ROWS; ++k) {
      const long i = first + k < end ? first + k : end - 1;
      for (int d = 0; d < 3; ++d) ROW(x[d], k) = p->x[3 * i + d];
    }
    for (long v = 0; v < p->channels; ++v)
      for (int r = 0; r < VECTORS; ++r) sums[v][r] = NAME(spread)(0);
    for (long start = 0; start < p->m; start += CHUNK) {
      const int count = p->m - start < CHUNK ? p->m - start : CHUNK;
      VECTOR weights[MOST_ORDERS][CHUNK][VECTORS];
      for (int k = 0; k < count; ++k) {
        const REAL *y = p->y + 3 * (start + k);
        VECTOR squared[VECTORS], gaussian[VECTORS];
#pragma GCC unroll 8
        for (int r = 0; r < VECTORS; ++r) {
          const VECTOR a = x[0][r] - y[0], b = x[1][r] - y[1], c = x[2][r] - y[2];
          squared[r] = a * a + b * b + c * c;
          gaussian[r] = NAME(power)(squared[r] * p->exponents[0]);
        }
        for (long o = 0; o < p->orders; ++o)
          for (int r = 0; r < VECTORS; ++r) weights[o][k][r] = gaussian[r] * p->factors[o];
        for (long s = 1; s < p->widths; ++s) {
          if (p->squarings[s] < 0)
            for (int r = 0; r < VECTORS; ++r) gaussian[r] = NAME(power)(squared[r] * p->exponents[s]);
          else
            for (long n = 0; n < p->squarings[s]; ++n)
              for (int r = 0; r < VECTORS; ++r) gaussian[r] *= gaussian[r];
          for (long o = 0; o < p->orders; ++o)
            for (int r = 0; r < VECTORS; ++r) weights[o][k][r] += gaussian[r] * p->factors[s * p->orders + o];
        }
      }
      for (long v = 0; v < p->channels; ++v) {
        const VECTOR(*w)[VECTORS] = (const VECTOR(*)[VECTORS])weights[p->order_of[v]];
        const REAL *value = p->values + start * p->channels + v;
        VECTOR sum[VECTORS];
        for (int r = 0; r < VECTORS; ++r) sum[r] = sums[v][r];
        for (int k = 0; k < count; ++k)
#pragma GCC unroll 8
          for (int r = 0; r < VECTORS; ++r) sum[r] += w[k][r] * value[k * p->channels];
        for (int r = 0; r < VECTORS; ++r) sums[v][r] = sum[r];
      }
    }
    for (int k = 0; k < ROWS && first + k < end; ++k)
      for (long v = 0; v < p->channels; ++v) p->result[(first + k) * p->channels + v] = ROW(sums[v], k);
  }
}
