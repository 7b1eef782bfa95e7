// Elementwise operations and sums over columns.

struct EmbedArgs {
  const void *table[4];
  int stream[4];  // graph.Stream
  int offset[4];
  int n, half, first, unused;
};

DEVICE const int *stream_of(const Head *h, int s) { return s == 0 ? h->ids : s == 1 ? h->types : h->positions; }

KERNEL embed(const Head *h, EmbedArgs a, Mat y) {
  EACH(h, y, i, j) {
    float v = a.first ? 0.f : at(y, i, j);
    for (int k = 0; k < a.n; k++) {
      i64 e = (i64)(stream_of(h, a.stream[k])[i] + a.offset[k]) * y.cols + j;
      v += a.half ? load((const bf16 *)a.table[k], e) : load((const float *)a.table[k], e);
    }
    set(y, i, j, v);
  }
}

// input_rows: y = the activations that came with the batch.
KERNEL input_rows(const Head *h, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, h->inputs[i * y.cols + j]); }
}

// epilogue finishes a product made by a library: pre = x (+ bias already),
// y = act(pre) + res.
KERNEL epilogue(const Head *h, Mat pre, int act, Mat res, Mat y) {
  EACH(h, y, i, j) {
    float v = activate_one(act, at(pre, i, j));
    set(y, i, j, v + at_or_0(res, i, j));
  }
}

KERNEL add_bias(const Head *h, Mat x, Mat bias, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, at(x, i, j) + bias.p[j]); }
}

KERNEL axpby(const Head *h, float alpha, Mat a, float beta, Mat b, Mat y) {
  EACH(h, y, i, j) {
    float v = alpha * at(a, i, j);
    if (b.p) v += beta * at(b, i, j);
    if (y.add) v += at(y, i, j);
    set(y, i, j, v);
  }
}

KERNEL col_scale(const Head *h, Mat x, Mat s, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, at(x, i, j) * s.p[j]); }
}

KERNEL activate(const Head *h, Mat x, int act, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, activate_one(act, at(x, i, j))); }
}

KERNEL activate_grad(const Head *h, Mat x, Mat dy, int act, Mat c, Mat dx) {
  EACH(h, dx, i, j) { set(dx, i, j, at(dy, i, j) * activate_grad_one(act, at(x, i, j)) + at_or_0(c, i, j)); }
}

KERNEL gated(const Head *h, Mat gate, Mat up, int act, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, activate_one(act, at(gate, i, j)) * at(up, i, j)); }
}

KERNEL gated_grad(const Head *h, Mat gate, Mat up, Mat dy, int act, Mat dgate, Mat dup) {
  EACH(h, dy, i, j) {
    float g = at(gate, i, j), u = at(up, i, j), d = at(dy, i, j);
    if (dgate.p) set(dgate, i, j, d * u * activate_grad_one(act, g));
    if (dup.p) set(dup, i, j, d * activate_one(act, g));
  }
}

// dropout: y = x·mask + c. A thread draws the bits of eight elements at a time.
KERNEL dropout(const Head *h, Mat x, Drop d, Mat c, Mat y) {
  bool on = d.on && h->train;
  i64 n = (i64)count(h, y.rows) * y.cols;
  for (i64 q = (i64)blockIdx.x * blockDim.x + threadIdx.x; 8 * q < n; q += (i64)gridDim.x * blockDim.x) {
    Words w = {{0, 0, 0, 0}};
    if (on) w = philox(h->seed, d.site, h->step, (u64)q);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      i64 e = 8 * q + k, i, j;
      if (e >= n) break;
      split_index(e, n, y.cols, i, j);
      float m = on ? mask_of(d, half_of(w, k)) : 1.f;
      set(y, i, j, at(x, i, j) * m + at_or_0(c, i, j));
    }
  }
}

// col_sum: y[j] = alpha·Σ_i x[i, j] (·b[i, j]) + c[j]. A block takes 32 columns
// with 8 threads each, which add every eighth row, in float over 64 rows and
// beyond in double.
KERNEL col_sum(const Head *h, Mat x, Mat b, float alpha, Mat c, Mat y) {
  __shared__ double part[8][33];
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, j = blockIdx.x * 32 + lane, n = count(h, x.rows);
  double total = 0;
  if (j < x.cols) {
    for (int i0 = w; i0 < n; i0 += 8 * 64) {
      float s = 0;
      for (int i = i0; i < n && i < i0 + 8 * 64; i += 8) s += b.p ? at(x, i, j) * at(b, i, j) : at(x, i, j);
      total += s;
    }
  }
  part[w][lane] = total;
  __syncthreads();
  if (w == 0 && j < x.cols) {
    for (int k = 1; k < 8; k++) total += part[k][lane];
    float v = (float)(alpha * total);
    y.p[j] = c.p ? v + c.p[j] : v;
  }
}

// fill: y = c, or 0.
KERNEL fill(const Head *h, Mat c, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, at_or_0(c, i, j)); }
}

KERNEL select_rows(const Head *h, Mat x, int pick, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, at(x, picked(h, pick, i), j)); }
}

// select_add adds dy to the picked rows of dx: no row is picked twice.
KERNEL select_add(const Head *h, Mat dy, int pick, Mat dx) {
  EACH(h, dy, i, j) {
    int t = picked(h, pick, i);
    set(dx, t, j, at(dx, t, j) + at(dy, i, j));
  }
}

KERNEL mean_pool(const Head *h, Mat x, Mat y) {
  EACH(h, y, i, j) {
    int lo = h->cu[i], hi = h->cu[i + 1];
    float s = 0;
    for (int t = lo; t < hi; t++) s += at(x, t, j);
    set(y, i, j, s / (float)(hi - lo));
  }
}

KERNEL mean_pool_grad(const Head *h, Mat dy, Mat c, Mat dx) {
  EACH(h, dx, i, j) {
    int s = h->seqs[i];
    float n = (float)(h->cu[s + 1] - h->cu[s]);
    set(dx, i, j, at(dy, s, j) / n + at_or_0(c, i, j));
  }
}

// rope_table fills cosines and sines (T, 2·n) of all tokens, in double because
// positions times frequencies need more bits than a float has.
KERNEL rope_table(const Head *h, const float *freq, int n, float scale, float *table) {
  i64 all = (i64)h->t * n;
  for (i64 e = (i64)blockIdx.x * blockDim.x + threadIdx.x; e < all; e += (i64)gridDim.x * blockDim.x) {
    i64 t = e / n, k = e % n;
    double s, c;
    sincos((double)h->positions[t] * (double)freq[k], &s, &c);
    table[t * 2 * n + k] = (float)(c * scale);
    table[t * 2 * n + n + k] = (float)(s * scale);
  }
}

KERNEL rope(const Head *h, Mat x, const float *table, int n, int head_dim, int interleaved, float sign, int pick, Mat y) {
  EACH(h, y, i, j) {
    int d = (int)j % head_dim;
    if (d >= 2 * n) {
      set(y, i, j, at(x, i, j));
      continue;
    }
    int k = interleaved ? d / 2 : d % n;
    bool first = interleaved ? d % 2 == 0 : d < n;
    int other = (int)j + (first ? 1 : -1) * (interleaved ? 1 : n);
    const float *row = table + (i64)picked(h, pick, i) * 2 * n;
    float c = row[k], s = sign * row[n + k], v = at(x, i, j), o = at(x, i, other);
    set(y, i, j, first ? v * c - o * s : v * c + o * s);
  }
}

KERNEL row_outer(const Head *h, Mat u, Mat v, Mat y) {
  EACH(h, y, i, j) { set(y, i, j, at(u, i, (int)j / v.cols) * at(v, i, (int)j % v.cols)); }
}

KERNEL row_outer_grad(const Head *h, Mat u, Mat v, Mat dy, Mat du, Mat dv) {
  Mat both = {nullptr, 0, dy.rows, u.cols + v.cols, 0};
  EACH(h, both, i, j) {
    float s = 0;
    if (j < u.cols) {
      if (!du.p) continue;
      for (int b = 0; b < v.cols; b++) s += at(dy, i, (int)j * v.cols + b) * at(v, i, b);
      set(du, i, j, du.add ? at(du, i, j) + s : s);
    } else {
      if (!dv.p) continue;
      int b = (int)j - u.cols;
      for (int a = 0; a < u.cols; a++) s += at(dy, i, a * v.cols + b) * at(u, i, a);
      set(dv, i, b, dv.add ? at(dv, i, b) + s : s);
    }
  }
}

// ColNorm is a norm of columns of W + alpha·op(a) op(b); W's element (i, j) is at
// i·si + j·sj, scale is that of int8 columns or null.
struct ColNormArgs {
  const void *w;
  const float *scale;
  i64 si, sj;
  Mat a, b, y;
  float alpha;
  int rows, ta, tb, inverse, unused;
};

// col_norm: y[j] = sqrt(Σ_i (W[i, j] + alpha·Σ_k a[i, k] b[k, j])²) or one over
// it, 32 columns to a block as in col_sum.
template <class W> DEVICE void col_norm_of(const ColNormArgs &c) {
  __shared__ double part[8][33];
  const W *w = (const W *)c.w;
  int lane = threadIdx.x & 31, k8 = threadIdx.x >> 5, j = blockIdx.x * 32 + lane, inner = c.ta ? c.a.rows : c.a.cols;
  double total = 0;
  if (j < c.y.cols) {
    float scale = c.scale ? c.scale[j] : 1.f;
    for (int i = k8; i < c.rows; i += 8) {
      float s = 0;
      for (int k = 0; k < inner; k++) s += (c.ta ? at(c.a, k, i) : at(c.a, i, k)) * (c.tb ? at(c.b, j, k) : at(c.b, k, j));
      s = scale * load(w, i * c.si + j * c.sj) + c.alpha * s;
      total += (double)s * s;
    }
  }
  part[k8][lane] = total;
  __syncthreads();
  if (k8 == 0 && j < c.y.cols) {
    for (int k = 1; k < 8; k++) total += part[k][lane];
    total = sqrt(total);
    c.y.p[j] = (float)(c.inverse ? 1 / total : total);
  }
}
KERNEL col_norm_f32(ColNormArgs c) { col_norm_of<float>(c); }
KERNEL col_norm_bf16(ColNormArgs c) { col_norm_of<bf16>(c); }
KERNEL col_norm_int8(ColNormArgs c) { col_norm_of<i8>(c); }

// int8_scales: scale = max|x|/127 of every row of a piece of rows, a block each,
// or of every column, the maximum with what is there: a column has many pieces.
KERNEL int8_scales(const float *x, int rows, int cols, int by_row, float *scale) {
  __shared__ float sh[32];
  float most = 0;
  if (by_row) {
    for (int j = threadIdx.x; j < cols; j += blockDim.x) most = fmaxf(most, fabsf(x[(i64)blockIdx.x * cols + j]));
    most = block_all(most, sh, true);
    if (threadIdx.x == 0) scale[blockIdx.x] = most / 127.f;
    return;
  }
  int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= cols) return;
  for (int i = 0; i < rows; i++) most = fmaxf(most, fabsf(x[(i64)i * cols + j]));
  scale[j] = fmaxf(scale[j], most / 127.f);
}

// int8_round: y = x/scale to the nearest integer, ties to even.
KERNEL int8_round(const float *x, int rows, int cols, int by_row, const float *scale, i8 *y) {
  i64 n = (i64)rows * cols;
  for (i64 e = (i64)blockIdx.x * blockDim.x + threadIdx.x; e < n; e += (i64)gridDim.x * blockDim.x) {
    i64 i, j;
    split_index(e, n, cols, i, j);
    float s = scale[by_row ? i : j];
    y[e].x = s > 0.f ? (signed char)rint((double)x[e] / (double)s) : (signed char)0;
  }
}

// widen: a frozen matrix of bf16 (scale null) or int8 as float32, or as bf16.
KERNEL widen(const void *w, i64 n, int cols, int by_row, const float *scale, int half, void *y) {
  for (i64 e = (i64)blockIdx.x * blockDim.x + threadIdx.x; e < n; e += (i64)gridDim.x * blockDim.x) {
    i64 i, j;
    split_index(e, n, cols, i, j);
    float v = scale ? load((const i8 *)w, e) * scale[by_row ? i : j] : load((const bf16 *)w, e);
    if (half) {
      ((bf16 *)y)[e].x = (u16)to_bf16(v);
    } else {
      ((float *)y)[e] = v;
    }
  }
}

KERNEL cast_bf16(const float *x, bf16 *y, i64 n) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) y[i].x = (u16)to_bf16(x[i]);
}

// cast_rows rounds a matrix of the batch into contiguous rows.
KERNEL cast_rows(const Head *h, Mat x, bf16 *y) {
  EACH(h, x, i, j) { y[i * x.cols + j].x = (u16)to_bf16(at(x, i, j)); }
}
