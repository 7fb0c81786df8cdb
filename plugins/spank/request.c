#include "request.h"

#include <string.h>

static request asked;

static int take_isolate(int value, const char *text, int remote)
{
	(void)value;
	(void)text;
	(void)remote;
	asked.isolate = true;
	return ESPANK_SUCCESS;
}

static struct spank_option options[] = {
	{ .name = (char *)"sov-isolate",
	  .usage = (char *)"private /tmp, /var/tmp, /dev/shm and process view, no new privileges, only the job's GPUs",
	  .cb = take_isolate },
};

void request_register(spank_t spank)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (spank_option_register(spank, &options[i]) != ESPANK_SUCCESS)
			slurm_error("sovctl: cannot register --%s", options[i].name);
}

request request_of_step(spank_t spank)
{
	request all = asked;
	char text[8];

	/* A step of an isolated batch script is isolated too; the script's own step used up the option. */
	if (spank_getenv(spank, ISOLATE_VARIABLE, text, sizeof(text)) == ESPANK_SUCCESS && strcmp(text, "1") == 0)
		all.isolate = true;
	return all;
}
