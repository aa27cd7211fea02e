// An order of points in which neighbours are near, and any TILE of them from a multiple of TILE on lie in a small box:
// halves along the widest axis, and so on. Included by library.c, which defines REAL and TYPED().

// Puts the `middle` smallest coordinates of order[0 .. count) first (Hoare's selection).
static void TYPED(select)(const REAL *points, long dimension, int64_t *order, long count, long middle, long axis) {
  long low = 0, high = count - 1;
  while (low < high) {
    // the median of three: points that are in order already are no worst case
    const REAL a = points[order[low] * dimension + axis], b = points[order[(low + high) / 2] * dimension + axis],
               c = points[order[high] * dimension + axis];
    const REAL pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
    long i = low, j = high;
    while (i <= j) {
      while (points[order[i] * dimension + axis] < pivot) ++i;
      while (points[order[j] * dimension + axis] > pivot) --j;
      if (i <= j) {
        const int64_t other = order[i];
        order[i++] = order[j];
        order[j--] = other;
      }
    }
    if (middle <= j) high = j;
    else if (middle >= i) low = i;
    else return;
  }
}

static void TYPED(halve)(const REAL *points, long dimension, int64_t *order, long count) {
  while (count > SMALLEST) {
    REAL widest = -1;
    long axis = 0;
    for (long d = 0; d < dimension; ++d) {
      REAL low = points[order[0] * dimension + d], high = low;
      for (long k = 1; k < count; ++k) {
        const REAL value = points[order[k] * dimension + d];
        low = value < low ? value : low;
        high = value > high ? value : high;
      }
      if (high - low > widest) widest = high - low, axis = d;
    }
    // halves begin where tiles do, and smaller ones where groups of rows do
    const long unit = count > TILE ? TILE : SMALLEST;
    const long middle = (count / 2 + unit - 1) / unit * unit;
    TYPED(select)(points, dimension, order, count, middle, axis);
    TYPED(halve)(points, dimension, order, middle);
    order += middle;
    count -= middle;
  }
}

// points (n, D) of finite coordinates; order (n) is written.
EXPORT void TYPED(otreg_order)(const REAL *points, int64_t count, int64_t dimension, int64_t *order) {
  for (long k = 0; k < count; ++k) order[k] = k;
  TYPED(halve)(points, dimension, order, count);
}
