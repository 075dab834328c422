#include "shiftadd.h"

#define SHIFTADD_STATUS_NAME(name, meaning) #name,
#define SHIFTADD_STATUS_MEANING(name, meaning) meaning,

const char *shiftadd_status_name(shiftadd_status status) {
    static const char *const names[] = {SHIFTADD_STATUSES(SHIFTADD_STATUS_NAME)};
    return (unsigned)status < SHIFTADD_STATUS_COUNT ? names[status] : "UNKNOWN";
}

const char *shiftadd_status_meaning(shiftadd_status status) {
    static const char *const meanings[] = {SHIFTADD_STATUSES(SHIFTADD_STATUS_MEANING)};
    return (unsigned)status < SHIFTADD_STATUS_COUNT ? meanings[status] : "no status";
}
