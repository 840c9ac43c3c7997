/* The fused search of one query, compiled: the same as `fuse_numpy` in fusion.py, in an eighth of its time.
 *
 * NumPy takes microseconds for each call on a hundred numbers, and a query needs forty of them. The arrays
 * must be those of a checked `LexicalIndex` of the same catalogue: documents are not compared with bounds here.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { FEW = 128 }; /* items that are sorted by insertion */
enum { STARTS, DOCUMENTS, WEIGHTS, IDF, SUMS, VECTORS, QUERY, MASK, BUFFERS };

typedef struct { int64_t first, count; int32_t term; float factor; } Term; /* factor: of the term in the query */
typedef struct { int32_t row; float dense, lexical, prior, fused; } Item;
typedef struct { int32_t row; float sum; } Found;

static int by_term(const void *a, const void *b) {
    int32_t one = ((const Term *)a)->term, other = ((const Term *)b)->term;
    return (one > other) - (one < other);
}

static int by_count(const void *a, const void *b) {
    const Term *one = a, *other = b;
    if (one->count != other->count) return one->count < other->count ? -1 : 1;
    return by_term(a, b);
}

static int by_row(const void *a, const void *b) {
    int32_t one = ((const Item *)a)->row, other = ((const Item *)b)->row;
    return (one > other) - (one < other);
}

static int is_better(const Item *one, const Item *other) {
    return one->fused > other->fused || (one->fused == other->fused && one->row < other->row);
}

static int by_score(const void *a, const void *b) { return is_better(b, a) - is_better(a, b); }

/* Sort items by a short insertion where they are few: qsort calls a function for each comparison. */
static void sort_by_row(Item *items, Py_ssize_t count) {
    if (count > FEW) {
        qsort(items, (size_t)count, sizeof(Item), by_row);
        return;
    }
    for (Py_ssize_t n = 1; n < count; n++) {
        Item moved = items[n];
        Py_ssize_t at = n;
        for (; at > 0 && items[at - 1].row > moved.row; at--) items[at] = items[at - 1];
        items[at] = moved;
    }
}

/* Put the best `k` items first, best first. */
static void sort_best(Item *items, Py_ssize_t count, Py_ssize_t k) {
    if (k > FEW) {
        qsort(items, (size_t)count, sizeof(Item), by_score);
        return;
    }
    for (Py_ssize_t n = 1; n < count && k > 0; n++) {
        Py_ssize_t size = n < k ? n : k, at = size; /* sorted so far */
        if (n >= k && !is_better(&items[n], &items[k - 1])) continue;
        Item moved = items[n];
        if (n >= k) {
            items[n] = items[k - 1];
            at = k - 1;
        }
        for (; at > 0 && is_better(&moved, &items[at - 1]); at--) items[at] = items[at - 1];
        items[at] = moved;
    }
}

/* Whether one document comes after another: a lower sum, or an equal one and a higher row. */
static int is_worse(Found one, Found other) {
    return one.sum < other.sum || (one.sum == other.sum && one.row > other.row);
}

/* Move a document down a heap whose root is the worst. */
static void sift(Found *heap, Py_ssize_t size, Py_ssize_t at) {
    Found moved = heap[at];
    for (Py_ssize_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && is_worse(heap[child + 1], heap[child])) child++;
        if (!is_worse(heap[child], moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static float product(const float *one, const float *other, Py_ssize_t length) {
    float sums[8] = {0};
    Py_ssize_t at = 0;
    for (; at + 8 <= length; at += 8)
        for (int lane = 0; lane < 8; lane++) sums[lane] += one[at + lane] * other[at + lane];
    float sum = 0;
    for (; at < length; at++) sum += one[at] * other[at];
    for (int lane = 0; lane < 8; lane++) sum += sums[lane];
    return sum;
}

/* Drop items that cannot be among the best `k`, whatever the terms that are left add; returns how many stay.
 *
 * `left` is the most that these terms can add to a score. The scores here differ from the final ones by rounding. */
static Py_ssize_t prune(Item *items, Py_ssize_t count, Py_ssize_t k, float left) {
    const float rounding = 1e-5f;
    if (k < 1 || k >= count || k > FEW) return count;
    sort_best(items, count, k);
    float least = items[k - 1].fused - left - rounding;
    Py_ssize_t kept = k;
    for (Py_ssize_t n = k; n < count; n++)
        if (items[n].fused >= least) items[kept++] = items[n];
    return kept;
}

/* Add the weights of one term to the items, which are in the order of their rows. */
static void add_term(Item *items, Py_ssize_t count, const Term *term, const int32_t *documents, const float *weights) {
    const int32_t *own = documents + term->first;
    int64_t low = 0, end = term->count;
    for (Py_ssize_t n = 0; n < count && low < end; n++) {
        int32_t row = items[n].row;
        int64_t step = 1, high = low; /* gallop from the last place, then halve */
        while (high < end && own[high] < row) {
            low = high + 1;
            high += step;
            step *= 2;
        }
        if (high > end) high = end;
        while (low < high) {
            int64_t middle = low + (high - low) / 2;
            if (own[middle] < row) low = middle + 1;
            else high = middle;
        }
        if (low < end && own[low] == row) items[n].lexical += term->factor * weights[term->first + low];
    }
}

static PyObject *floats(const Item *items, Py_ssize_t count, size_t offset) {
    PyObject *list = PyList_New(count);
    for (Py_ssize_t n = 0; list != NULL && n < count; n++) {
        PyObject *value = PyFloat_FromDouble(*(const float *)((const char *)&items[n] + offset));
        if (value == NULL || PyList_SetItem(list, n, value) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *rows_of(const Item *items, Py_ssize_t count) {
    PyObject *list = PyList_New(count);
    for (Py_ssize_t n = 0; list != NULL && n < count; n++) {
        PyObject *value = PyLong_FromLong(items[n].row);
        if (value == NULL || PyList_SetItem(list, n, value) < 0) Py_CLEAR(list);
    }
    return list;
}

/* The distinct words, the rarest first; -1 with an exception if a term is unknown. `whole` gets the whole query. */
static Py_ssize_t read_terms(PyObject *list, Term *terms, Term *whole, const int64_t *starts, const float *idf,
                             Py_ssize_t known, int is_tfidf) {
    Py_ssize_t given = PyList_Size(list), count = 0;
    for (Py_ssize_t n = 0; n < given; n++) {
        Py_ssize_t term = PyLong_AsSsize_t(PyList_GetItem(list, n));
        if (term < 0 || term >= known) {
            if (!PyErr_Occurred()) PyErr_Format(PyExc_IndexError, "term %zd: the index has %zd terms", term, known);
            return -1;
        }
        terms[n] = (Term){starts[term], starts[term + 1] - starts[term], (int32_t)term, 1};
    }
    qsort(terms, (size_t)given, sizeof(Term), by_term);
    for (Py_ssize_t n = 0; n < given; n++) {
        if (idf[terms[n].term] == 0) *whole = terms[n];
        else if (count && terms[count - 1].term == terms[n].term) terms[count - 1].factor++;
        else terms[count++] = terms[n];
    }
    for (Py_ssize_t n = 0; n < count && is_tfidf; n++) terms[n].factor = 1 + logf(terms[n].factor);
    qsort(terms, (size_t)count, sizeof(Term), by_count);
    return count;
}

/* The items of the dense search; -1 with an exception if a row is not one of the catalogue. */
static Py_ssize_t read_items(PyObject *rows, PyObject *scores, Item *items, Py_ssize_t catalogue) {
    Py_ssize_t count = PyList_Size(rows);
    if (PyList_Size(scores) != count) {
        PyErr_Format(PyExc_ValueError, "%zd scores for %zd rows", PyList_Size(scores), count);
        return -1;
    }
    for (Py_ssize_t n = 0; n < count; n++) {
        Py_ssize_t row = PyLong_AsSsize_t(PyList_GetItem(rows, n));
        double score = PyFloat_AsDouble(PyList_GetItem(scores, n));
        if (PyErr_Occurred()) return -1;
        if (row < 0 || row >= catalogue) {
            PyErr_Format(PyExc_IndexError, "row %zd: the catalogue has %zd items", row, catalogue);
            return -1;
        }
        items[n] = (Item){(int32_t)row, (float)score, 0, 0, 0};
    }
    return count;
}

/* Give the items their priors, and add the items that only the clicks have found; returns how many there are. */
static Py_ssize_t add_clicked(Item *items, Py_ssize_t count, const Term *whole, const int32_t *documents,
                              const float *weights, const char *mask, float *sums, const float *query,
                              const float *vectors, Py_ssize_t dimension) {
    Py_ssize_t found = count;
    for (Py_ssize_t n = 0; n < found; n++) sums[items[n].row] = (float)(n + 1); /* its place; below 2^24, so exact */
    for (int64_t at = whole->first; at < whole->first + whole->count; at++) {
        int32_t row = documents[at];
        if (sums[row] > 0) {
            items[(Py_ssize_t)sums[row] - 1].prior = weights[at];
        } else if (mask == NULL || mask[row]) {
            float dense = product(query, vectors + (int64_t)row * dimension, dimension);
            items[count++] = (Item){row, dense, 0, weights[at], 0};
        }
    }
    for (Py_ssize_t n = 0; n < found; n++) sums[items[n].row] = 0;
    return count;
}

static PyObject *fuse(PyObject *Py_UNUSED(self), PyObject *args) {
    PyObject *given[BUFFERS] = {0}, *term_list, *rows, *scores, *result = NULL;
    double weight, prior_weight;
    Py_ssize_t most_terms, most_postings, most_found, k;
    int is_tfidf;
    if (!PyArg_ParseTuple(args, "OOOOOOOOO!O!O!ddnnnnp", &given[STARTS], &given[DOCUMENTS], &given[WEIGHTS], &given[IDF],
                          &given[SUMS], &given[VECTORS], &given[QUERY], &given[MASK], &PyList_Type, &term_list,
                          &PyList_Type, &rows, &PyList_Type, &scores, &weight, &prior_weight, &most_terms,
                          &most_postings, &most_found, &k, &is_tfidf))
        return NULL;
    Py_buffer buffers[BUFFERS];
    int opened = 0;
    Term *terms = NULL;
    Item *items = NULL;
    int32_t *touched = NULL;
    Found *best = NULL;
    for (; opened < BUFFERS; opened++) {
        if (opened == MASK && given[MASK] == Py_None) {
            buffers[MASK].buf = NULL;
            break;
        }
        int flags = opened == SUMS ? PyBUF_WRITABLE : PyBUF_SIMPLE;
        if (PyObject_GetBuffer(given[opened], &buffers[opened], flags) < 0) goto done;
    }
    const int64_t *starts = buffers[STARTS].buf;
    const int32_t *documents = buffers[DOCUMENTS].buf;
    const float *weights = buffers[WEIGHTS].buf, *idf = buffers[IDF].buf;
    const float *vectors = buffers[VECTORS].buf, *query = buffers[QUERY].buf;
    const char *mask = buffers[MASK].buf;
    float *sums = buffers[SUMS].buf;
    Py_ssize_t known = buffers[IDF].len / 4, catalogue = buffers[SUMS].len / 4, dimension = buffers[QUERY].len / 4;
    const char *wrong = NULL;
    if (buffers[STARTS].len != 8 * (known + 1)) wrong = "starts: expected one more than idf has";
    else if (buffers[DOCUMENTS].len != buffers[WEIGHTS].len) wrong = "documents and weights differ in length";
    else if (buffers[VECTORS].len != 4 * catalogue * dimension) wrong = "vectors: do not fit the items and the query";
    else if (mask != NULL && buffers[MASK].len != catalogue) wrong = "mask: expected a value for each item";
    else if (!(weight >= 0 && weight <= 1)) wrong = "weight: expected 0 to 1";
    else if (!(prior_weight >= 0 && prior_weight <= 1)) wrong = "prior_weight: expected 0 to 1";
    else if (most_terms < 0 || most_postings < 0 || most_found < 0 || k < 0) wrong = "a bound is below 0";
    if (wrong != NULL) {
        PyErr_SetString(PyExc_ValueError, wrong);
        goto done;
    }
    if (most_found > most_postings) most_found = most_postings;
    terms = malloc(sizeof(Term) * (size_t)(PyList_Size(term_list) + 1));
    touched = malloc(sizeof(int32_t) * (size_t)(most_postings + 1));
    best = malloc(sizeof(Found) * (size_t)(most_found + 1));
    if (terms == NULL || touched == NULL || best == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Term whole = {0};
    Py_ssize_t term_count = read_terms(term_list, terms, &whole, starts, idf, known, is_tfidf);
    if (term_count < 0) goto done;
    if (prior_weight == 0) whole.count = 0;
    items = malloc(sizeof(Item) * (size_t)(PyList_Size(rows) + whole.count + most_found + 1));
    if (items == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Py_ssize_t count = read_items(rows, scores, items, catalogue);
    if (count < 0) goto done;
    if (term_count > most_terms) term_count = most_terms;
    if (whole.count)
        count = add_clicked(items, count, &whole, documents, weights, mask, sums, query, vectors, dimension);

    float bound = 0;
    for (Py_ssize_t n = 0; n < term_count; n++) {
        float most = terms[n].factor * idf[terms[n].term];
        bound += is_tfidf ? most * most : most;
    }
    if (is_tfidf) bound = sqrtf(bound);
    Py_ssize_t rare = 0, found = 0;
    for (int64_t left = most_postings; rare < term_count && terms[rare].count <= left; rare++) {
        const Term *term = &terms[rare];
        left -= term->count;
        const int64_t end = term->first + term->count;
        if (rare + 1 < term_count) {
            __builtin_prefetch(documents + terms[rare + 1].first);
            __builtin_prefetch(weights + terms[rare + 1].first);
        }
        for (int64_t at = term->first; at < end; at++) {
            int32_t row = documents[at];
            if (at + 24 < end) __builtin_prefetch(&sums[documents[at + 24]], 1);
            if (mask != NULL && !mask[row]) continue;
            if (sums[row] == 0) touched[found++] = row;
            sums[row] += term->factor * weights[at];
        }
    }
    for (Py_ssize_t n = 0; n < count; n++) items[n].lexical = sums[items[n].row];

    Py_ssize_t size = 0; /* the best of them, in a heap whose root is the worst */
    for (Py_ssize_t n = 0; n < found; n++) {
        Found each = {touched[n], sums[touched[n]]};
        sums[each.row] = 0;
        if (size < most_found) {
            best[size++] = each;
            if (size == most_found) for (Py_ssize_t at = size / 2; at-- > 0;) sift(best, size, at);
        } else if (size && is_worse(best[0], each)) {
            best[0] = each;
            sift(best, size, 0);
        }
    }
    Py_ssize_t dense_count = count;
    for (Py_ssize_t n = 0; n < dense_count; n++) sums[items[n].row] = 1;
    for (Py_ssize_t n = 0; n < size; n++) {
        if (sums[best[n].row] != 0) continue; /* the dense search has found it, too */
        const float *vector = vectors + (int64_t)best[n].row * dimension;
        for (Py_ssize_t at = 0; at < dimension; at += 16) __builtin_prefetch(vector + at);
        items[count++] = (Item){best[n].row, 0, best[n].sum, 0, 0};
    }
    for (Py_ssize_t n = 0; n < dense_count; n++) sums[items[n].row] = 0;
    for (Py_ssize_t n = dense_count; n < count; n++)
        items[n].dense = product(query, vectors + (int64_t)items[n].row * dimension, dimension);

    float share = (float)weight, rest = 1 - share, of_prior = (float)prior_weight, left = 0;
    for (Py_ssize_t n = rare; n < term_count; n++) left += terms[n].factor * idf[terms[n].term]; /* no weight is higher */
    if (left > 0) {
        for (Py_ssize_t n = 0; n < count; n++)
            items[n].fused = rest * items[n].dense + share * items[n].lexical / bound + of_prior * items[n].prior;
        count = prune(items, count, k, share * left / bound);
        sort_by_row(items, count);
        for (Py_ssize_t n = rare; n < term_count; n++) add_term(items, count, &terms[n], documents, weights);
    }
    for (Py_ssize_t n = 0; n < count; n++) {
        items[n].lexical = bound > 0 ? items[n].lexical / bound : 0;
        items[n].fused = rest * items[n].dense + share * items[n].lexical + of_prior * items[n].prior;
    }
    sort_best(items, count, k);
    if (count > k) count = k;
    PyObject *lists[5] = {rows_of(items, count), floats(items, count, offsetof(Item, fused)),
                          floats(items, count, offsetof(Item, dense)), floats(items, count, offsetof(Item, lexical)),
                          floats(items, count, offsetof(Item, prior))};
    if (lists[0] && lists[1] && lists[2] && lists[3] && lists[4])
        result = PyTuple_Pack(5, lists[0], lists[1], lists[2], lists[3], lists[4]);
    for (int n = 0; n < 5; n++) Py_XDECREF(lists[n]);

done:
    free(terms);
    free(items);
    free(touched);
    free(best);
    while (opened-- > 0) PyBuffer_Release(&buffers[opened]);
    return result;
}

static PyMethodDef methods[] = {{"fuse", fuse, METH_VARARGS, "See `fuse_numpy` in fusion.py."}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_fusion", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__fusion(void) { return PyModule_Create(&module); }
