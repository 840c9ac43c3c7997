/* The part of an exact search that is done on int8 copies: finds the same as `PlainCopies` in int8_copies.py.
 *
 * A copy is held in two halves: the upper 4 bits of its coordinates, and the lower ones. The upper half tells how
 * high the product with a query can be at most, and nearly always that is not high enough; so the lower half is
 * seldom read. The time goes to waiting for memory: half of the bytes take half of the time, only the rows that are
 * asked for are read, and memory is asked for them before they are needed.
 *
 * With coordinates c = 16 u + l - 128, u and l from 0 to 15, and q for the query, whole numbers all:
 *
 *     q.c = 16 q.u + q.l - 128 sum q <= 16 q.u - 120.5 sum q + |q| |l - 7.5|         (Cauchy-Schwarz)
 *
 * The spread of a copy is |l - 7.5|, from 0 to 7.5 sqrt(2 width), as a byte that is rounded up.
 *
 * Products of whole numbers are the same with AVX-512 VNNI, with AVX2 and in plain C; the processor decides which
 * runs. Compile without contraction of products and sums (-ffp-contract=off): then values round as NumPy's do.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86 1
#include <immintrin.h>
#endif
#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

enum {
    BLOCK = 256,              /* rows whose products are held at a time */
    TOGETHER = 16,            /* rows that are compared together, at most */
    AHEAD = 32,               /* rows from which a copy is asked of the memory until it is read */
    LINE = 64,                /* bytes that memory brings at a time */
    MOST_PREFETCHED = 8,      /* lines of a row; the processor sees by itself what comes after */
    MOST_DIMENSION = 1 << 16, /* with more, a product may not fit into 32 bits */
    SHORT = 1 << 18,          /* bytes that are compared without letting other threads run: some 20 us */
    FIRST_CAPACITY = 1024,
};
#define ABOVE 1.001 /* of a bound, so that it holds after its parts have been rounded */
enum { UPPER, LOWER, SCALES, SPREADS, QUERY, ROWS, BUFFERS };

typedef enum { DONE, BAD_ROWS, NO_MEMORY } Outcome;
typedef struct { int64_t row; float value; } Near;

/* Halves of copies that are compared with a query. All BLOCK + AHEAD pointers lead to a row; those after `size` are
 * not compared. Byte n of a half holds the coordinates n (4 low bits) and n + width (4 high bits). */
typedef struct {
    const uint8_t *halves[BLOCK + AHEAD];
    const int8_t *query; /* 2 width coordinates, the last one 0 if the dimension is odd */
    Py_ssize_t size, width;
    int is_scattered; /* otherwise the processor sees by itself what is read next, and asks for it sooner */
} Block;
typedef void (*Products)(const Block *block, int32_t *products); /* any of the BLOCK places may be set */

static inline void prefetch(const uint8_t *half, Py_ssize_t width) {
    for (Py_ssize_t at = 0; at < width && at < MOST_PREFETCHED * LINE; at += LINE) PREFETCH(half + at);
}

static inline int32_t rest_of(const uint8_t *half, const Block *block, Py_ssize_t from) {
    const int8_t *first = block->query, *second = block->query + block->width;
    int32_t sum = 0;
    for (Py_ssize_t at = from; at < block->width; at++)
        sum += (half[at] & 15) * (int32_t)first[at] + (half[at] >> 4) * (int32_t)second[at];
    return sum;
}

static void products_plain(const Block *block, int32_t *products) {
    for (Py_ssize_t n = 0; n < block->size; n++) {
        if (block->is_scattered) prefetch(block->halves[n + AHEAD], block->width);
        products[n] = rest_of(block->halves[n], block, 0);
    }
}

#ifdef HAS_X86
#define AVX2 __attribute__((target("avx2")))
#define VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512vnni")))

AVX2 static inline __m256i add_32(__m256i sum, const uint8_t *half, __m256i first, __m256i second) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i bytes = _mm256_loadu_si256((const __m256i *)half);
    __m256i upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_and_si256(bytes, low), first),
                                     _mm256_maddubs_epi16(upper, second)); /* at most 4 x 15 x 128: 16 bits hold it */
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

AVX2 static void products_avx2(const Block *block, int32_t *products) {
    for (Py_ssize_t n = 0; n < block->size; n += 4) {
        const uint8_t *const *halves = block->halves + n;
        __m256i sums[4];
        Py_ssize_t at = 0;
        for (int each = 0; each < 4; each++) {
            sums[each] = _mm256_setzero_si256();
            if (block->is_scattered) prefetch(halves[each + AHEAD], block->width);
        }
        for (; at + 32 <= block->width; at += 32) {
            __m256i first = _mm256_loadu_si256((const __m256i *)(block->query + at));
            __m256i second = _mm256_loadu_si256((const __m256i *)(block->query + block->width + at));
            for (int each = 0; each < 4; each++) sums[each] = add_32(sums[each], halves[each] + at, first, second);
        }
        __m256i both = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        __m128i whole = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        _mm_storeu_si128((__m128i *)(products + n), whole);
        if (at < block->width)
            for (int each = 0; each < 4; each++) products[n + each] += rest_of(halves[each], block, at);
    }
}

VNNI static inline __m512i add_64(__m512i sum, __m512i bytes, __m512i first, __m512i second) {
    const __m512i low = _mm512_set1_epi8(15);
    sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(bytes, low), first);
    return _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low), second);
}

/* Sums of neighbouring lanes of 32 bits, of 64 bits, and of 128 bits. */
VNNI static inline __m512i pairs_32(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
VNNI static inline __m512i pairs_64(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
VNNI static inline __m512i pairs_128(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* Inlined for a width that is known, where loops over it vanish. */
VNNI static inline __attribute__((always_inline)) void of_width(const Block *block, Py_ssize_t width,
                                                                int32_t *products) {
    const Py_ssize_t whole = width - width % 64;
    const __mmask64 kept = ((__mmask64)1 << (width - whole)) - 1;
    const int8_t *query = block->query;
    for (Py_ssize_t n = 0; n < block->size; n += 16) {
        const uint8_t *const *halves = block->halves + n;
        __m512i sums[16];
        for (int each = 0; each < 16; each++) {
            sums[each] = _mm512_setzero_si512();
            if (block->is_scattered) prefetch(halves[each + AHEAD], width);
        }
        for (Py_ssize_t at = 0; at < whole; at += 64) {
            __m512i first = _mm512_loadu_si512(query + at), second = _mm512_loadu_si512(query + width + at);
            for (int each = 0; each < 16; each++)
                sums[each] = add_64(sums[each], _mm512_loadu_si512(halves[each] + at), first, second);
        }
        if (kept) {
            __m512i first = _mm512_maskz_loadu_epi8(kept, query + whole);
            __m512i second = _mm512_maskz_loadu_epi8(kept, query + width + whole);
            for (int each = 0; each < 16; each++)
                sums[each] = add_64(sums[each], _mm512_maskz_loadu_epi8(kept, halves[each] + whole), first, second);
        }
        for (int each = 0; each < 8; each++) sums[each] = pairs_32(sums[2 * each], sums[2 * each + 1]);
        for (int each = 0; each < 4; each++) sums[each] = pairs_64(sums[2 * each], sums[2 * each + 1]);
        for (int each = 0; each < 2; each++) sums[each] = pairs_128(sums[2 * each], sums[2 * each + 1]);
        _mm512_storeu_si512(products + n, pairs_128(sums[0], sums[1]));
    }
}

VNNI static void products_vnni(const Block *block, int32_t *products) {
    if (block->width == 32) of_width(block, 32, products);
    else if (block->width == 64) of_width(block, 64, products);
    else of_width(block, block->width, products);
}
#endif

typedef struct { const char *name; Products products; } Level;
static Level levels[3]; /* that this processor has, the fastest first */
static int level_count;

static void find_levels(void) {
    level_count = 0;
#ifdef HAS_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vnni"))
        levels[level_count++] = (Level){"vnni", products_vnni};
    if (avx2) levels[level_count++] = (Level){"avx2", products_avx2};
#endif
    levels[level_count++] = (Level){"plain", products_plain};
}

/* What is searched, and how. */
typedef struct {
    const uint8_t *upper, *lower;
    const int8_t *query;
    const float *scales;
    const uint8_t *spreads;
    const int64_t *rows; /* NULL: all */
    Py_ssize_t items, count, width, k;
    float margin;
    Products products;
} Search;

/* What has been found: candidates in the order of their rows, and the highest values in a heap whose root is the
 * lowest of them. */
typedef struct {
    Near *near;
    float *heap;
    Py_ssize_t count, capacity, held;
    float limit; /* of a candidate's value, by what has been seen; it rises */
    int32_t query_sum;
    Block upper, lower;
    int64_t waiting[BLOCK];  /* rows whose lower halves are to be compared */
    int32_t products[BLOCK]; /* of their upper halves */
    Py_ssize_t waiting_count;
} Found;

/* Put a value in the place of the heap's lowest. */
static void replace_lowest(float *heap, Py_ssize_t size, float value) {
    Py_ssize_t at = 0;
    for (;;) {
        Py_ssize_t child = 2 * at + 1;
        if (child >= size) break;
        if (child + 1 < size && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
}

static void add_to_heap(float *heap, Py_ssize_t size, float value) {
    Py_ssize_t at = size;
    for (; at > 0 && heap[(at - 1) / 2] > value; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = value;
}

static void drop_low(Found *found) {
    Py_ssize_t kept = 0;
    for (Py_ssize_t n = 0; n < found->count; n++)
        if (found->near[n].value >= found->limit) found->near[kept++] = found->near[n];
    found->count = kept;
}

/* Make room for one block; 0 without memory. */
static int make_room(Found *found) {
    if (found->count + BLOCK <= found->capacity) return 1;
    drop_low(found);
    if (found->count + BLOCK <= found->capacity / 2) return 1;
    Near *moved = realloc(found->near, sizeof(Near) * (size_t)(2 * found->capacity));
    if (moved == NULL) return 0;
    found->near = moved;
    found->capacity *= 2;
    return 1;
}

static void take(Found *found, const Search *search, int64_t row, float value) {
    if (!(value >= found->limit)) return;
    found->near[found->count++] = (Near){row, value};
    if (found->held < search->k) add_to_heap(found->heap, found->held++, value);
    else if (value > found->heap[0]) replace_lowest(found->heap, found->held, value);
    else return;
    if (found->held == search->k) found->limit = found->heap[0] - search->margin;
}

/* The rows from `start` on, and up to AHEAD more that come after them. They are copied before they are checked: the
 * array is another's, who may write into it meanwhile. 0 if they do not ascend, or are not rows of the items. */
static int read_rows(const Search *search, Py_ssize_t start, Py_ssize_t size, int64_t *rows) {
    Py_ssize_t left = search->count - start;
    if (search->rows == NULL) {
        for (Py_ssize_t n = 0; n < size + AHEAD; n++) rows[n] = start + n;
        return 1;
    }
    memcpy(rows, search->rows + start, sizeof(int64_t) * (size_t)(left < size + AHEAD ? left : size + AHEAD));
    int wrong = rows[0] < 0 || rows[size - 1] >= search->items;
    for (Py_ssize_t n = 1; n < size; n++) wrong |= rows[n] <= rows[n - 1];
    return !wrong;
}

/* Point to the halves of `size` rows, and of those that come after them up to `known`: these are checked later, and
 * no more than asked of the memory, where any address will do. */
static void aim(Block *block, const uint8_t *halves, const int64_t *rows, Py_ssize_t size, Py_ssize_t known) {
    for (Py_ssize_t n = 0; n < known; n++)
        block->halves[n] = (const uint8_t *)((uintptr_t)halves + (uintptr_t)rows[n] * (uintptr_t)block->width);
    Py_ssize_t end = size + TOGETHER + AHEAD < BLOCK + AHEAD ? size + TOGETHER + AHEAD : BLOCK + AHEAD;
    for (Py_ssize_t n = known; n < end; n++) block->halves[n] = block->halves[size - 1];
    block->size = size;
}

/* Compare the lower halves of the rows that wait; 0 without memory. */
static int compare_lower(const Search *search, Found *found) {
    int32_t products[BLOCK];
    if (found->waiting_count == 0) return 1;
    if (!make_room(found)) return 0;
    aim(&found->lower, search->lower, found->waiting, found->waiting_count, found->waiting_count);
    search->products(&found->lower, products);
    for (Py_ssize_t n = 0; n < found->waiting_count; n++) {
        int64_t row = found->waiting[n];
        int32_t whole = 16 * found->products[n] + products[n] - 128 * found->query_sum;
        take(found, search, row, (float)whole * search->scales[row]);
    }
    found->waiting_count = 0;
    return 1;
}

/* All rows whose value is at most the margin below the k-th highest. */
static Outcome run(const Search *search, Found *found) {
    const Py_ssize_t width = search->width;
    const int8_t *query = search->query;
    int32_t products[BLOCK], kept[BLOCK];
    float bounds[BLOCK], own_scales[BLOCK];
    uint8_t own_spreads[BLOCK];
    int64_t rows[BLOCK + AHEAD], last = -1;
    double squares = 0;
    for (Py_ssize_t at = 0; at < 2 * width; at++) {
        found->query_sum += query[at];
        squares += (double)query[at] * query[at];
    }
    const float centre = (float)(-120.5 * found->query_sum);
    const float reach = (float)(ABOVE * sqrt(squares) * 7.5 * sqrt(2.0 * (double)width) / 255); /* of a spread of 1 */
    found->upper = found->lower = (Block){.query = query, .width = width};
    found->upper.is_scattered = search->rows != NULL;
    for (Py_ssize_t start = 0; start < search->count; start += BLOCK) {
        Py_ssize_t left = search->count - start, size = left < BLOCK ? left : BLOCK, survivors = 0;
        if (!read_rows(search, start, size, rows) || rows[0] <= last) return BAD_ROWS;
        last = rows[size - 1];
        aim(&found->upper, search->upper, rows, size, left < size + AHEAD ? left : size + AHEAD);
        const float *scales = search->scales + start;
        const uint8_t *spreads = search->spreads + start;
        if (search->rows != NULL) {
            for (Py_ssize_t n = 0; n < size; n++) {
                own_scales[n] = search->scales[rows[n]];
                own_spreads[n] = search->spreads[rows[n]];
            }
            scales = own_scales;
            spreads = own_spreads;
        }
        search->products(&found->upper, products);
        for (Py_ssize_t n = 0; n < size; n++)
            bounds[n] = ((float)(16 * products[n]) + centre + reach * (float)spreads[n]) * scales[n];
        for (Py_ssize_t n = 0; n < size; n++) {
            kept[survivors] = (int32_t)n; /* without a branch, which the processor would guess wrong too often */
            survivors += bounds[n] >= found->limit;
        }
        if (!compare_lower(search, found)) return NO_MEMORY; /* those of the block before: memory has brought them */
        for (Py_ssize_t n = 0; n < survivors; n++) {
            int64_t row = rows[kept[n]];
            prefetch(search->lower + row * width, width);
            found->waiting[n] = row;
            found->products[n] = products[kept[n]];
        }
        found->waiting_count = survivors;
    }
    if (!compare_lower(search, found)) return NO_MEMORY;
    drop_low(found);
    return DONE;
}

/* Open an array of a type; 0 with an exception if it is another. */
static int open_array(PyObject *given, Py_buffer *buffer, int which) {
    static const char *const names[] = {"upper", "lower", "scales", "spreads", "query", "rows"};
    static const char *const formats[] = {"B", "B", "f", "B", "b", "lq"};
    static const int dimensions[] = {2, 2, 1, 1, 1, 1};
    static const Py_ssize_t sizes[] = {1, 1, sizeof(float), 1, 1, sizeof(int64_t)};
    if (PyObject_GetBuffer(given, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) return 0;
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s: expected an array without gaps in memory", names[which]);
        return 0;
    }
    const char *format = buffer->format == NULL ? "B" : buffer->format;
    if (strlen(format) == 1 && strchr(formats[which], format[0]) != NULL && buffer->itemsize == sizes[which] &&
        buffer->ndim == dimensions[which] && (uintptr_t)buffer->buf % (uintptr_t)sizes[which] == 0)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s: expected %d dimensions of type %s, aligned; got %d of type %s", names[which],
                 dimensions[which], formats[which], buffer->ndim, format);
    PyBuffer_Release(buffer);
    return 0;
}

static const Level *level_of(const char *name) {
    if (name == NULL) return &levels[0];
    for (int n = 0; n < level_count; n++)
        if (strcmp(levels[n].name, name) == 0) return &levels[n];
    PyErr_Format(PyExc_ValueError, "level: this processor has no %s", name);
    return NULL;
}

/* Whether what is to be searched fits together; otherwise with an exception. */
static int fits(const Search *search, const Py_buffer *buffers) {
    if (buffers[LOWER].shape[0] != search->items || buffers[LOWER].shape[1] != search->width ||
        buffers[SCALES].shape[0] != search->items || buffers[SPREADS].shape[0] != search->items ||
        buffers[QUERY].shape[0] != 2 * search->width)
        PyErr_Format(PyExc_ValueError, "expected halves, scales and spreads of %zd items, and a query of %zd", search->items,
                     2 * search->width);
    else if (2 * search->width > MOST_DIMENSION)
        PyErr_Format(PyExc_ValueError, "upper: expected at most %d bytes each", MOST_DIMENSION / 2);
    else if (search->k < 1 || search->k > search->count)
        PyErr_Format(PyExc_ValueError, "k: expected 1 to %zd, got %zd", search->count, search->k);
    else if (!(search->margin >= 0))
        PyErr_SetString(PyExc_ValueError, "margin: expected at least 0");
    else
        return 1;
    return 0;
}

static PyObject *rows_of(const Found *found) {
    PyObject *rows = PyBytes_FromStringAndSize(NULL, found->count * (Py_ssize_t)sizeof(int64_t));
    if (rows == NULL) return NULL;
    char *row = PyBytes_AsString(rows);
    for (Py_ssize_t n = 0; n < found->count; n++)
        memcpy(row + n * (Py_ssize_t)sizeof(int64_t), &found->near[n].row, sizeof(int64_t));
    return rows;
}

static PyObject *near(PyObject *Py_UNUSED(self), PyObject *args) {
    PyObject *given[BUFFERS] = {0}, *result = NULL;
    const char *name = NULL;
    Py_ssize_t k;
    double margin;
    if (!PyArg_ParseTuple(args, "OOOOOOnd|z", &given[UPPER], &given[LOWER], &given[SCALES], &given[SPREADS],
                          &given[QUERY], &given[ROWS], &k, &margin, &name))
        return NULL;
    const Level *level = level_of(name);
    if (level == NULL) return NULL;
    Py_buffer buffers[BUFFERS];
    Found *found = NULL;
    int opened = 0, wanted = given[ROWS] == Py_None ? ROWS : BUFFERS;
    for (; opened < wanted; opened++)
        if (!open_array(given[opened], &buffers[opened], opened)) goto done;
    Py_ssize_t items = buffers[UPPER].shape[0];
    Search search = {.upper = buffers[UPPER].buf, .lower = buffers[LOWER].buf, .scales = buffers[SCALES].buf,
                     .spreads = buffers[SPREADS].buf, .query = buffers[QUERY].buf, .items = items, .count = items,
                     .width = buffers[UPPER].shape[1], .k = k, .margin = (float)margin, .products = level->products};
    if (wanted == BUFFERS) {
        search.rows = buffers[ROWS].buf;
        search.count = buffers[ROWS].shape[0];
    }
    if (!fits(&search, buffers)) goto done;
    Outcome outcome = NO_MEMORY;
    found = calloc(1, sizeof(Found));
    if (found != NULL) {
        found->near = malloc(sizeof(Near) * FIRST_CAPACITY);
        found->heap = malloc(sizeof(float) * (size_t)k);
        found->capacity = FIRST_CAPACITY;
        found->limit = -INFINITY;
    }
    if (found != NULL && found->near != NULL && found->heap != NULL) {
        PyThreadState *state = search.count > SHORT / (search.width + 1) ? PyEval_SaveThread() : NULL;
        outcome = run(&search, found);
        if (state != NULL) PyEval_RestoreThread(state);
    }
    if (outcome == NO_MEMORY) PyErr_NoMemory();
    else if (outcome == BAD_ROWS)
        PyErr_Format(PyExc_ValueError, "rows: expected ascending ones from 0 to %zd, none of them twice", items - 1);
    else result = rows_of(found);

done:
    if (found != NULL) {
        free(found->near);
        free(found->heap);
    }
    free(found);
    while (opened-- > 0) PyBuffer_Release(&buffers[opened]);
    return result;
}

static PyObject *level_names(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none)) {
    PyObject *names = PyList_New(0);
    for (int n = 0; names != NULL && n < level_count; n++) {
        PyObject *name = PyUnicode_FromString(levels[n].name);
        if (name == NULL || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyMethodDef methods[] = {{"near", near, METH_VARARGS, "See _int8_kernel.pyi."},
                                {"levels", level_names, METH_NOARGS, "See _int8_kernel.pyi."},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_int8_kernel", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__int8_kernel(void) {
    find_levels();
    return PyModule_Create(&module);
}
