# An installation from npm, laid out as images/openclaw/Dockerfile lays it out.
FROM clawfarm-test/debian:12
COPY tree /opt/openclaw
RUN set -eu; \
    ln -s /opt/openclaw/node_modules/node-linux-*/bin/node /usr/local/bin/node; \
    ln -s /opt/openclaw/node_modules/openclaw /app; \
    ln -s /app/openclaw.mjs /usr/local/bin/openclaw; \
    groupadd --gid 1000 node; \
    useradd --uid 1000 --gid node --create-home --shell /bin/bash node; \
    mkdir -p /home/node/.openclaw/workspace /home/node/.config/openclaw; \
    chown -R node:node /home/node
USER node
WORKDIR /app
