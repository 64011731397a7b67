/* The linear's bookkeeping on the device: which rows a unit has, which adapters a tile of tokens
 * meets. */
#ifndef KERNELS_CUDA_LINEAR_WORK_H
#define KERNELS_CUDA_LINEAR_WORK_H

#include "kernels/cuda/linear.h"

/* A row of a group: its site and row there; row == UINT32_MAX where the group is ragged. */
struct linear_place {
    uint32_t site;
    uint32_t row;
};

static DEV linear_place linear_place_of(const linear_job &job, uint32_t group, uint32_t r)
{
    linear_place p = {0, group * LINEAR_GROUP + r};
    if (job.op.post == KERN_POST_ACT_MUL) {
        p.site = r / (LINEAR_GROUP / 2);
        p.row = group * (LINEAR_GROUP / 2) + r % (LINEAR_GROUP / 2);
    } else if (job.op.post == KERN_POST_HEADS) {
        const kern_heads &h = job.op.heads;
        uint32_t q_n = linear_query_heads(&h);
        p.site = group < q_n ? 0 : group < q_n + h.kv_head_n ? 1 : 2;
        uint32_t head = p.site == 0 ? group : group - q_n - (p.site - 1) * h.kv_head_n;
        p.row = head * h.head_dim + r;
        p.row = r < h.head_dim ? p.row : UINT32_MAX;
    } else {
        while (p.site + 1 < job.op.site_n && group >= linear_site_groups(&job.op, p.site)) {
            group -= linear_site_groups(&job.op, p.site);
            p.site++;
        }
        p.row = group * LINEAR_GROUP + r;
    }
    p.row = p.row < job.op.sites[p.site].n ? p.row : UINT32_MAX;
    return p;
}

/* The adapters that a tile of tokens meets, one entry per (tile, site). */
struct linear_tiles {
    uint32_t n;                         /* tiles */
    uint32_t first;                     /* of step->tiles */
    uint32_t pass;                      /* of tile 0 */
    uint32_t unit_n;                    /* shrink units in all */
    uint32_t unit_at[LINEAR_TILES + 1]; /* first unit of a tile */
    uint32_t u_at[LINEAR_TILES];        /* first element of a tile in u */
};

static DEV uint32_t linear_pad(uint32_t rank)
{
    return (rank + 15) / 16 * 16;
}

static DEV uint32_t linear_rank(const linear_job &job, const cuda_tile &tile, uint32_t site)
{
    return tile.sites[job.op.sites[site].site].rank;
}

/* The pass of a tile, by its place among the passes' first ones. */
static DEV uint32_t linear_tile_pass(const linear_job &job, const linear_tiles &tiles, uint32_t i)
{
    uint32_t pass = tiles.pass;
    while (tiles.first + i >= job.step->tile_first[pass + 1]) {
        pass++;
    }
    return pass;
}

/* Fills the table; every thread. `unit_rows`: ranks of one unit. Four passes at most. */
static DEV void linear_find_tiles(const linear_job &job, uint32_t token_first, uint32_t token_n,
                                  uint32_t unit_rows, linear_tiles *out)
{
    const cuda_step *step = job.step;
    uint32_t pass = token_first / CUDA_PASS_ROWS;
    uint32_t pass_end = (token_first + token_n - 1) / CUDA_PASS_ROWS + 1;
    pass_end = pass_end < step->pass_n ? pass_end : step->pass_n;
    uint32_t first = job.has_lowrank && pass < pass_end ? step->tile_first[pass] : 0;
    uint32_t n = job.has_lowrank && pass < pass_end ? step->tile_first[pass_end] - first : 0;
    for (uint32_t i = threadIdx.x; i < n; i += LINEAR_THREADS) {
        const cuda_tile &tile = step->tiles[first + i];
        uint32_t units = 0;
        uint32_t elements = 0;
        for (uint32_t s = 0; s < job.op.site_n; s++) {
            uint32_t rank = linear_rank(job, tile, s);
            units += (rank + unit_rows - 1) / unit_rows;
            elements += linear_pad(rank);
        }
        out->unit_at[i] = units;
        out->u_at[i] = elements * (uint32_t)__popc(tile.mask);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t unit = 0;
        uint32_t at = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t units = out->unit_at[i];
            uint32_t elements = out->u_at[i];
            out->unit_at[i] = unit;
            out->u_at[i] = at;
            unit += units;
            at += elements;
        }
        out->unit_at[n] = unit;
        out->unit_n = unit;
        out->n = n;
        out->first = first;
        out->pass = pass;
    }
    __syncthreads();
}

/* A shrink unit: ranks [rank_first, ..) of one site of one tile. */
struct linear_shrink {
    uint32_t tile; /* within the table */
    uint32_t site;
    uint32_t rank_first;
    uint32_t rank;
    uint32_t
        u_at; /* element of the site's first rank of the tile's first row; rows are `pad` apart */
    uint32_t pad;
    uint32_t mask;
    const void *a; /* row 0 of A */
};

static DEV linear_shrink linear_shrink_site(const linear_job &job, const linear_tiles &tiles,
                                            uint32_t i, uint32_t site)
{
    const cuda_tile &tile = job.step->tiles[tiles.first + i];
    const effect_lowrank &e = tile.sites[job.op.sites[site].site];
    linear_shrink s = {
        i, site, 0, e.rank, tiles.u_at[i], linear_pad(e.rank), tile.mask, tile.block + e.a_at};
    for (uint32_t before = 0; before < site; before++) {
        s.u_at += linear_pad(linear_rank(job, tile, before)) * (uint32_t)__popc(tile.mask);
    }
    return s;
}

static DEV linear_shrink linear_shrink_of(const linear_job &job, const linear_tiles &tiles,
                                          uint32_t unit, uint32_t unit_rows)
{
    uint32_t low =
        0; /* the last tile whose first unit is not beyond: tiles without units share it */
    uint32_t high = tiles.n;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (tiles.unit_at[middle] <= unit) {
            low = middle;
        } else {
            high = middle;
        }
    }
    uint32_t left = unit - tiles.unit_at[low];
    uint32_t site = 0;
    const cuda_tile &tile = job.step->tiles[tiles.first + low];
    for (;; site++) {
        uint32_t units = (linear_rank(job, tile, site) + unit_rows - 1) / unit_rows;
        if (left < units) {
            break;
        }
        left -= units;
    }
    linear_shrink s = linear_shrink_site(job, tiles, low, site);
    s.rank_first = left * unit_rows;
    return s;
}

#endif
