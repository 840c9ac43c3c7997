/* Nearest items by inner product: a beam search in a graph, and products with some items or all, on int8 codes.
 *
 * The arithmetic of a search is inner products of the query with items that lie all over memory. A code takes a
 * quarter of the bytes of a float32 vector, and one instruction multiplies 64 of its coordinates where the processor
 * has AVX-512 VNNI. The best items are compared once more in float32.
 *
 * Links are compared with the number of items where they are followed, so a damaged graph cannot crash the process.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define ON_X86 1
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LINE = 64 };     /* bytes of a cache line; the length of a code is a multiple of it */
enum { HIGHEST = 127 }; /* of a coordinate of a code */
enum { BLOCK = 256 };   /* items that are scored together */
/* The items of the best 2 k + SPARE different scores by codes are compared in float32. Copies of an item share a score. */
enum { SPARE = 10 };

typedef struct {
    int8_t *code;
    int32_t sum;         /* of the coordinates of the code */
    const float *vector; /* (D,) */
    float scale;         /* restores the vector from the code */
} Query;

typedef struct {
    const int8_t *codes;   /* (N, length) */
    const float *scales;   /* (N,): restores a vector from its code */
    const float *vectors;  /* (N, D) */
    const uint32_t *links; /* (N, width); one that is no row ends the links of an item */
    uint32_t count;        /* N */
    Py_ssize_t length, dimension, width;
    const uint8_t *allowed; /* (N,): whether an item may be found; NULL: all */
    const int64_t *some;    /* rows of the items to compare without a graph; NULL: all */
    size_t compared;        /* how many these are */
    double max_residual, max_norm; /* largest |x - x'| and |x'| of items x with codes x' */
    Py_ssize_t most_steps;         /* items whose links a search follows; it then gives up; below 0: any number */
} Items;

INLINE int32_t plain_product(const int8_t *code, const Query *query, Py_ssize_t length) {
    int32_t sum = 0;
    for (Py_ssize_t at = 0; at < length; at++) sum += code[at] * query->code[at];
    return sum;
}

#ifdef ON_X86
#define AVX2 __attribute__((target("avx2")))
#define VNNI __attribute__((target("avx512f,avx512vnni")))

AVX2 INLINE int32_t avx2_product(const int8_t *code, const Query *query, Py_ssize_t length) {
    __m256i sums = _mm256_setzero_si256();
    for (Py_ssize_t at = 0; at < length; at += 16) {
        __m256i one = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(code + at)));
        __m256i other = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(query->code + at)));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(one, other));
    }
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    half = _mm_add_epi32(half, _mm_srli_si128(half, 8));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_srli_si128(half, 4)));
}

/* The instruction multiplies unsigned with signed bytes, so 128 is added to each coordinate of the item's code. */
VNNI INLINE int32_t vnni_product(const int8_t *code, const Query *query, Py_ssize_t length) {
    const __m512i shift = _mm512_set1_epi8(-128);
    __m512i sums = _mm512_setzero_si512();
    for (Py_ssize_t at = 0; at < length; at += LINE) {
        __m512i one = _mm512_xor_si512(_mm512_loadu_si512(code + at), shift);
        sums = _mm512_dpbusd_epi32(sums, one, _mm512_loadu_si512(query->code + at));
    }
    return _mm512_reduce_add_epi32(sums) - 128 * query->sum;
}
#endif

/* The scores of some items by their codes, without the scale of the query; each variant computes the same numbers. */
typedef void (*Scorer)(const Items *items, const Query *query, const uint32_t *rows, size_t count, float *scores);

#define SCORER(features, name, product) \
    features static void name(const Items *items, const Query *query, const uint32_t *rows, size_t count, float *scores) { \
        for (size_t n = 0; n < count; n++) { \
            const int8_t *code = items->codes + (size_t)rows[n] * (size_t)items->length; \
            scores[n] = items->scales[rows[n]] * (float)product(code, query, items->length); \
        } \
    }

SCORER(, plain_scores, plain_product)
#ifdef ON_X86
SCORER(AVX2, avx2_scores, avx2_product)
SCORER(VNNI, vnni_scores, vnni_product)
static const Scorer variants[] = {plain_scores, avx2_scores, vnni_scores}; /* each faster than those before it */
#else
static const Scorer variants[] = {plain_scores};
#endif
static Scorer code_scores = plain_scores;

/* The place of the fastest variant that this processor has. */
static int fastest(void) {
    int found = 0;
#ifdef ON_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) found = __builtin_cpu_supports("avx512vnni") ? 2 : 1;
#endif
    return found;
}

static float vector_product(const float *one, const float *other, Py_ssize_t length) {
    float sums[16] = {0}, sum = 0;
    Py_ssize_t at = 0;
    for (; at + 16 <= length; at += 16)
        for (int lane = 0; lane < 16; lane++) sums[lane] += one[at + lane] * other[at + lane];
    for (; at < length; at++) sum += one[at] * other[at];
    for (int lane = 0; lane < 16; lane++) sum += sums[lane];
    return sum;
}

INLINE void prefetch(const void *start, Py_ssize_t bytes) {
    for (Py_ssize_t at = 0; at < bytes; at += LINE) __builtin_prefetch((const char *)start + at);
}

/* An item and its score as one number: a higher score is a higher number, and of equal scores the lower row. */
INLINE uint64_t scored(float score, uint32_t row) {
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return (uint64_t)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (uint32_t)~row;
}

INLINE uint32_t row_of(uint64_t item) { return ~(uint32_t)item; }

INLINE float score_of(uint64_t item) {
    uint32_t bits = (uint32_t)(item >> 32);
    float score;
    bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
    memcpy(&score, &bits, sizeof score);
    return score;
}

typedef struct { uint64_t *items; size_t size, room; } Heap; /* its root is the lowest number */

/* Replace the root. */
INLINE void replace(Heap *heap, uint64_t item) {
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap->size; at = child) {
        if (child + 1 < heap->size && heap->items[child + 1] < heap->items[child]) child++;
        if (heap->items[child] >= item) break;
        heap->items[at] = heap->items[child];
    }
    heap->items[at] = item;
}

/* Add a number; there must be room. */
INLINE void push(Heap *heap, uint64_t item) {
    size_t at = heap->size++;
    for (; at > 0 && heap->items[(at - 1) / 2] > item; at = (at - 1) / 2) heap->items[at] = heap->items[(at - 1) / 2];
    heap->items[at] = item;
}

/* Remove and return the root. */
INLINE uint64_t pop(Heap *heap) {
    uint64_t root = heap->items[0], last = heap->items[--heap->size];
    if (heap->size) replace(heap, last);
    return root;
}

/* Make room for more numbers; false if there is no memory. */
static int reserve(Heap *heap, size_t more) {
    if (heap->size + more <= heap->room) return 1;
    size_t room = 2 * (heap->size + more);
    uint64_t *items = realloc(heap->items, room * sizeof *items);
    if (items == NULL) return 0;
    heap->items = items;
    heap->room = room;
    return 1;
}

static int by_score(const void *a, const void *b) {
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
    return (one < other) - (one > other);
}

/* Set the code of a query: its first coordinates as -127 to 127, and zeros up to the length of a code. A coordinate
 * that only pads vectors may have no code; where a query is not 0 there, codes are not asked. */
static void encode(Query *query, Py_ssize_t dimension, Py_ssize_t length) {
    const float *vector = query->vector;
    float largest = 0;
    for (Py_ssize_t at = 0; at < dimension; at++) largest = fabsf(vector[at]) > largest ? fabsf(vector[at]) : largest;
    query->scale = largest / HIGHEST;
    query->sum = 0;
    memset(query->code, 0, (size_t)length);
    for (Py_ssize_t at = 0; largest > 0 && at < dimension; at++) {
        float value = vector[at] / largest * HIGHEST;
        value = value > -HIGHEST ? value : -HIGHEST; /* NaN has no code */
        query->code[at] = (int8_t)(value < 0 ? value - 0.5f : value + 0.5f);
        query->sum += query->code[at];
    }
}

INLINE void prefetch_item(const Items *items, uint32_t row) {
    prefetch(items->codes + (size_t)row * (size_t)items->length, items->length);
    __builtin_prefetch(&items->scales[row]);
}

/* The best of about sqrt(N) items that are spread evenly over the rows: the search begins there. */
static uint64_t best_start(const Items *items, const Query *query) {
    uint32_t starts = (uint32_t)sqrt((double)items->count);
    uint64_t best = 0;
    for (uint32_t n = 0; n < starts; n++) {
        uint32_t row = (uint32_t)((uint64_t)n * items->count / starts);
        float score;
        code_scores(items, query, &row, 1, &score);
        if (scored(score, row) > best) best = scored(score, row);
    }
    return best;
}

typedef struct {
    uint64_t *visited; /* a bit for each item */
    Heap found;        /* the best `ef` items that are allowed */
    Heap open;         /* items whose links have not been followed, as ~scored: the best is the root */
    uint32_t *fresh;   /* (width,): links that lead to items that were not visited */
    float *scores;     /* (width,): of these items */
} Workspace;

INLINE int visit(uint64_t *visited, uint32_t row) {
    uint64_t bit = UINT64_C(1) << (row & 63), before = visited[row >> 6];
    visited[row >> 6] = before | bit;
    return !(before & bit);
}

INLINE void keep_best(Heap *best, uint64_t item, size_t k) {
    if (best->size < k) push(best, item);
    else if (item > best->items[0]) replace(best, item);
}

INLINE void offer(Workspace *work, const Items *items, uint64_t item, size_t ef) {
    if (work->found.size == ef && item < work->found.items[0]) return;
    push(&work->open, ~item);
    if (items->allowed == NULL || items->allowed[row_of(item)]) keep_best(&work->found, item, ef);
}

/* Find the `ef` best items (Malkov and Yashunin 2018, algorithm 2) by their codes; false if there is no memory.
 *
 * Items that are not allowed are walked through, but not kept. A search that gives up finds nothing. */
static int walk(Workspace *work, const Items *items, const Query *query, size_t ef) {
    memset(work->visited, 0, (items->count / 64 + 1) * sizeof *work->visited);
    work->found.size = work->open.size = 0;
    uint64_t start = best_start(items, query);
    visit(work->visited, row_of(start));
    offer(work, items, start, ef);
    for (Py_ssize_t steps = 0; work->open.size; steps++) {
        uint64_t item = ~pop(&work->open);
        if (work->found.size == ef && item < work->found.items[0]) break;
        if (steps == items->most_steps) {
            work->found.size = 0;
            break;
        }
        const uint32_t *links = items->links + (size_t)row_of(item) * (size_t)items->width;
        Py_ssize_t fresh = 0;
        for (Py_ssize_t n = 0; n < items->width && links[n] < items->count; n++) {
            if (!visit(work->visited, links[n])) continue;
            work->fresh[fresh++] = links[n];
            prefetch_item(items, links[n]);
        }
        if (!reserve(&work->open, (size_t)fresh)) return 0;
        code_scores(items, query, work->fresh, (size_t)fresh, work->scores);
        for (Py_ssize_t n = 0; n < fresh; n++) offer(work, items, scored(work->scores[n], work->fresh[n]), ef);
        if (work->open.size)
            prefetch(items->links + (size_t)row_of(~work->open.items[0]) * (size_t)items->width, 4 * items->width);
    }
    return 1;
}

/* Write the best `k` numbers, best first, and -1 where there are no more; returns how many there are. */
static Py_ssize_t write_best(uint64_t *best, size_t count, size_t k, int64_t *rows, float *scores) {
    qsort(best, count, sizeof *best, by_score);
    for (size_t n = 0; n < k; n++) {
        rows[n] = n < count ? (int64_t)row_of(best[n]) : -1;
        scores[n] = n < count ? score_of(best[n]) : 0;
    }
    return (Py_ssize_t)(count < k ? count : k);
}

INLINE uint64_t exact(const Items *items, const Query *query, uint32_t row) {
    const float *vector = items->vectors + (size_t)row * (size_t)items->dimension;
    return scored(vector_product(vector, query->vector, items->dimension), row);
}

/* Compare the best of what the walk has found in float32, and write the best `k`; returns how many there are. */
static Py_ssize_t rank_found(Heap *found, const Items *items, const Query *query, size_t k, int64_t *rows, float *scores) {
    size_t compared = 0;
    qsort(found->items, found->size, sizeof *found->items, by_score);
    for (size_t different = 0; compared < found->size; compared++)
        if (compared == 0 || found->items[compared] >> 32 != found->items[compared - 1] >> 32)
            if (different++ == 2 * k + SPARE) break;
    for (size_t n = 0; n < compared; n++) {
        if (n + 2 < compared)
            prefetch(items->vectors + row_of(found->items[n + 2]) * (size_t)items->dimension, 4 * items->dimension);
        found->items[n] = exact(items, query, row_of(found->items[n]));
    }
    return write_best(found->items, compared, k, rows, scores);
}

/* The most by which a product of codes differs from that of the vectors, by the Cauchy-Schwarz inequality:
 *
 *     |q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= |q| max |x - x'| + |q - q'| max |x'|
 */
static double largest_error(const Items *items, const Query *query) {
    const double rounding = 1e-5; /* of float32 arithmetic, as a part of the largest product that is possible */
    double length = 0, lost = 0;
    for (Py_ssize_t at = 0; at < items->dimension; at++) {
        double value = query->vector[at];
        double rest = at < items->length ? value - (double)query->scale * query->code[at] : value;
        length += value * value;
        lost += rest * rest;
    }
    length = sqrt(length);
    return length * items->max_residual + sqrt(lost) * items->max_norm +
           rounding * length * (items->max_residual + items->max_norm);
}

/* Find the exact best `k` of some items: those whose codes say that they may be among them are compared in float32. */
static Py_ssize_t scan(const Items *items, const Query *query, size_t k, Heap *best, float *values, int64_t *rows,
                       float *scores) {
    const int by_codes = items->max_residual < INFINITY; /* otherwise codes say nothing */
    const int64_t *some = items->some;
    best->size = 0;
    for (size_t start = 0; by_codes && start < items->compared; start += BLOCK) {
        uint32_t rows_of_block[BLOCK];
        size_t size = items->compared - start < BLOCK ? items->compared - start : BLOCK;
        for (size_t n = 0; n < size; n++)
            rows_of_block[n] = (uint32_t)(some == NULL ? (int64_t)(start + n) : some[start + n]);
        for (size_t n = 0; some != NULL && n < size; n++) prefetch_item(items, rows_of_block[n]);
        code_scores(items, query, rows_of_block, size, values + start);
        for (size_t n = start; n < start + size; n++)
            if (best->size < k || values[n] >= score_of(best->items[0]))
                keep_best(best, scored(values[n], rows_of_block[n - start]), k);
    }
    double bound = -INFINITY;
    if (best->size == k && query->scale > 0)
        bound = score_of(best->items[0]) - 2 * largest_error(items, query) / query->scale;
    best->size = 0;
    for (size_t n = 0; n < items->compared; n++)
        if (!by_codes || !(values[n] < bound)) /* so that NaN is found */
            keep_best(best, exact(items, query, (uint32_t)(some == NULL ? (int64_t)n : some[n])), k);
    return write_best(best->items, best->size, k, rows, scores);
}

/* Search for each query, in the graph if there is one; returns the lowest number of items that one has found, or -1
 * if there is no memory. */
static Py_ssize_t search_all(const Items *items, const float *queries, Py_ssize_t batch, size_t k, size_t ef,
                             int64_t *rows, float *scores) {
    Py_ssize_t coded = items->dimension < items->length ? items->dimension : items->length;
    Query query = {.code = malloc((size_t)items->length + 1)};
    Workspace work = {.visited = malloc((items->count / 64 + 1) * sizeof *work.visited),
                      .fresh = malloc((size_t)items->width * sizeof *work.fresh + 1),
                      .scores = malloc((size_t)items->width * sizeof *work.scores + 1)};
    float *values = malloc((items->links == NULL ? items->compared : 0) * sizeof *values + 1);
    Py_ssize_t least = (Py_ssize_t)k;
    int ready = query.code && work.visited && work.fresh && work.scores && values && reserve(&work.found, ef) && reserve(&work.open, 1);
    for (; ready && batch-- > 0; queries += items->dimension, rows += k, scores += k) {
        query.vector = queries;
        if (items->length) encode(&query, coded, items->length);
        Py_ssize_t count = 0;
        if (items->links == NULL) count = scan(items, &query, k, &work.found, values, rows, scores);
        else if ((ready = walk(&work, items, &query, ef))) count = rank_found(&work.found, items, &query, k, rows, scores);
        if (count < least) least = count;
    }
    free(query.code);
    free(values);
    free(work.visited);
    free(work.fresh);
    free(work.scores);
    free(work.found.items);
    free(work.open.items);
    return ready ? least : -1;
}

enum { CODES, SCALES, VECTORS, QUERIES, ROWS, SCORES, SOME, LINKS, ALLOWED, BUFFERS };

/* What is wrong with the sizes of the arrays; NULL if they fit, and `items` is set then. */
static const char *check(const Py_buffer *at, Py_ssize_t k, Py_ssize_t ef, Items *items) {
    Py_ssize_t count = at[SCALES].len / 4;
    if (at[SCALES].len % 4 || at[SOME].len % 8) return "scales, some: not whole numbers of their types";
    if (count < 1 || count >= UINT32_MAX) return "scales: expected 1 to 2^32 - 2 items";
    if (at[CODES].len % (count * LINE)) return "codes: expected a multiple of 64 bytes for each item";
    if (at[VECTORS].len == 0 || at[VECTORS].len % (count * 4)) return "vectors: do not fit the number of items";
    if (at[LINKS].len % (count * 4)) return "links: do not fit the number of items";
    if (at[ALLOWED].buf != NULL && at[ALLOWED].len != count) return "allowed: expected a byte for each item";
    *items = (Items){at[CODES].buf, at[SCALES].buf, at[VECTORS].buf, at[LINKS].buf, (uint32_t)count,
                     at[CODES].len / count, at[VECTORS].len / count / 4, at[LINKS].len / count / 4, at[ALLOWED].buf,
                     at[SOME].buf, (size_t)(at[SOME].buf == NULL ? count : at[SOME].len / 8), items->max_residual,
                     items->max_norm, items->most_steps};
    int needs_codes = items->links != NULL || items->max_residual < INFINITY;
    Py_ssize_t batch = at[QUERIES].len / 4 / items->dimension;
    if (items->dimension - 1 > items->length && needs_codes) return "codes: shorter than the vectors without padding";
    if (at[QUERIES].len != 4 * batch * items->dimension) return "queries: another dimension than the vectors";
    if (k < 1 || ef < k) return "expected 1 <= k <= ef";
    if (batch && k > at[ROWS].len / 8 / batch) return "rows, scores: expected k for each query";
    if (ef > k && ef > count) return "ef: expected at most the number of items";
    if (at[ROWS].len != 8 * batch * k || at[SCORES].len != 4 * batch * k) return "rows, scores: expected k for each query";
    for (size_t n = 0; items->some != NULL && n < items->compared; n++)
        if (items->some[n] < 0 || items->some[n] >= count) return "some: a row that no item has";
    return NULL;
}

static PyObject *search(PyObject *Py_UNUSED(self), PyObject *args) {
    PyObject *given[BUFFERS];
    Py_buffer at[BUFFERS] = {{0}};
    Items items;
    Py_ssize_t k, ef, least = 0;
    if (!PyArg_ParseTuple(args, "OOOOOOOOOnnndd", &given[CODES], &given[SCALES], &given[VECTORS], &given[QUERIES],
                          &given[ROWS], &given[SCORES], &given[SOME], &given[LINKS], &given[ALLOWED], &k, &ef,
                          &items.most_steps, &items.max_residual, &items.max_norm))
        return NULL;
    int opened = 1; /* None has no buffer */
    for (int n = 0; opened && n < BUFFERS; n++)
        if (given[n] != Py_None)
            opened = PyObject_GetBuffer(given[n], &at[n], n == ROWS || n == SCORES ? PyBUF_WRITABLE : PyBUF_SIMPLE) == 0;
    const char *wrong = opened ? check(at, k, ef, &items) : NULL;
    if (wrong != NULL) {
        PyErr_SetString(PyExc_ValueError, wrong);
    } else if (opened) {
        Py_ssize_t batch = at[QUERIES].len / 4 / items.dimension;
        Py_BEGIN_ALLOW_THREADS
        least = search_all(&items, at[QUERIES].buf, batch, (size_t)k, (size_t)ef, at[ROWS].buf, at[SCORES].buf);
        Py_END_ALLOW_THREADS
        if (least < 0) PyErr_NoMemory();
    }
    for (int n = 0; n < BUFFERS; n++) PyBuffer_Release(&at[n]);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(least);
}

/* Compute with another variant, at most the fastest; returns its place. */
static PyObject *choose(PyObject *Py_UNUSED(self), PyObject *args) {
    int wanted;
    if (!PyArg_ParseTuple(args, "i", &wanted)) return NULL;
    int place = wanted < 0 || wanted > fastest() ? fastest() : wanted;
    code_scores = variants[place];
    return PyLong_FromLong(place);
}

static PyMethodDef methods[] = {
    {"search", search, METH_VARARGS, "See `search` in _kernel.pyi."},
    {"choose", choose, METH_VARARGS, "See `choose` in _kernel.pyi."},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_kernel", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    code_scores = variants[fastest()];
    return PyModule_Create(&module);
}
