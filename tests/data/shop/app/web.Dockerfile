ARG NODE=20
FROM node:${NODE}-alpine AS build
RUN npm ci
FROM nginx:1.27-alpine
COPY --from=build /srv /srv
